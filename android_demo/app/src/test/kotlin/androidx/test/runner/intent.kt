package androidx.test.runner.intent

import android.app.Instrumentation.ActivityResult
import android.content.Intent

interface IntentMonitor

interface IntentStubber {
    fun getActivityResultForIntent(intent: Intent): ActivityResult?
}

object IntentMonitorRegistry {
    @JvmStatic fun registerInstance(@Suppress("UNUSED_PARAMETER") given: IntentMonitor) = Unit
}

object IntentStubberRegistry {
    @JvmStatic fun isLoaded(): Boolean = false

    @JvmStatic fun getInstance(): IntentStubber = error("no stubber is ever loaded")
}
