package androidx.test.platform.app

import android.app.Instrumentation
import android.os.Bundle

object InstrumentationRegistry {
    private var instrumentation: Instrumentation? = null

    /** Robolectric also takes the one of the test before away, with null. */
    @JvmStatic fun registerInstance(given: Instrumentation?, @Suppress("UNUSED_PARAMETER") arguments: Bundle?) {
        instrumentation = given
    }

    @JvmStatic fun getInstrumentation(): Instrumentation = checkNotNull(instrumentation)
}
