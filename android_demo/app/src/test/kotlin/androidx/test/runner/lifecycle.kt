// Robolectric names these classes of androidx.test, which are not with it on Maven Central. It only hands them events
// that our tests do not ask for; so they are here as far as Robolectric links against them.
package androidx.test.runner.lifecycle

import android.app.Activity

enum class Stage { PRE_ON_CREATE, CREATED, STARTED, RESUMED, PAUSED, STOPPED, RESTARTED, DESTROYED }

enum class ApplicationStage { PRE_ON_CREATE, CREATED }

interface ActivityLifecycleCallback

interface ActivityLifecycleMonitor {
    fun getActivitiesInStage(stage: Stage): Collection<Activity>
}

interface ApplicationLifecycleMonitor

object ActivityLifecycleMonitorRegistry {
    private lateinit var monitor: ActivityLifecycleMonitor

    @JvmStatic fun registerInstance(given: ActivityLifecycleMonitor) {
        monitor = given
    }

    @JvmStatic fun getInstance(): ActivityLifecycleMonitor = monitor
}

object ApplicationLifecycleMonitorRegistry {
    @JvmStatic fun registerInstance(@Suppress("UNUSED_PARAMETER") given: ApplicationLifecycleMonitor) = Unit
}
