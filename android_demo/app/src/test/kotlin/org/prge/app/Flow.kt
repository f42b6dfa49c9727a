package org.prge.app

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import java.io.ByteArrayInputStream
import java.io.File
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.android.controller.ServiceController
import org.robolectric.shadows.ShadowAlertDialog

/** The app on a toy runtime. Steps take long enough that a test can do something between them. */
class ToyApp : App() {
    override fun runtime() = Toy(pause = 5)
}

// What an owner does and sees, for tests.

val toyApp: ToyApp get() = RuntimeEnvironment.getApplication() as ToyApp

fun View.all(): Sequence<View> =
    sequenceOf(this) + if (this is ViewGroup) (0 until childCount).asSequence().flatMap { getChildAt(it).all() } else emptySequence()

val Activity.root: View get() = findViewById<ViewGroup>(android.R.id.content).getChildAt(0)

/** All texts that are visible. */
fun Activity.texts(): List<String> = root.all().filterIsInstance<TextView>().filter { it.isShown }.map { it.text.toString() }.toList()

fun Activity.press(label: Int) = press(getString(label))

fun Activity.press(label: String) {
    look()
    val found = root.all().filterIsInstance<TextView>().firstOrNull { it.isShown && it.isClickable && it.text.toString() == label }
    checkNotNull(found) { "no button $label among ${texts()}" }.performClick()
    idle()
}

fun idle() = shadowOf(Looper.getMainLooper()).idle()

/** Gives the screens the time in which they look at what goes on. */
fun look() = shadowOf(Looper.getMainLooper()).idleFor(java.time.Duration.ofMillis(600))

/** Waits for what other threads do, and what they then ask the main one to do. */
fun until(what: String, happened: () -> Boolean) {
    val end = System.nanoTime() + 60_000_000_000
    while (!happened()) {
        check(System.nanoTime() < end) { "it did not happen: $what; said: ${said()}, busy: ${toyApp.busyWith}" }
        Thread.sleep(20)
        idle()
    }
}

fun said(): String? = ShadowAlertDialog.getLatestAlertDialog()?.let { shadowOf(it).message?.toString() }

/** The owner chooses a file in the system's picker, which [activity] has opened. */
fun choose(activity: Activity, name: String, content: ByteArray) {
    val asked = shadowOf(activity).nextStartedActivityForResult
    val uri = Uri.parse("content://files/$name")
    shadowOf(activity.contentResolver).registerInputStream(uri, ByteArrayInputStream(content))
    shadowOf(activity).receiveResult(asked.intent, Activity.RESULT_OK, Intent().setData(uri))
    until("import") { idle(); toyApp.busyWith == 0 }
}

/** The service that was started, as the system would start it. */
fun service(): ServiceController<TrainingService> {
    val intent = checkNotNull(shadowOf(toyApp).nextStartedService) { "no service was started" }
    return Robolectric.buildService(TrainingService::class.java, intent).create().startCommand(0, 1)
}

private val open = ArrayList<ActivityController<*>>()

fun <A : Activity> screenOf(kind: Class<A>, intent: Intent? = null): A = controllerOf(kind, intent).get()

fun <A : Activity> controllerOf(kind: Class<A>, intent: Intent? = null): ActivityController<A> =
    Robolectric.buildActivity(kind, intent).setup().also { open += it }

/** Ends what a test has begun. */
fun end() {
    toyApp.training.stop()
    toyApp.training.join()
    for (one in open) one.close()
    open.clear()
}

/** A toy program on the shelf, as if it had been imported; perhaps one that also writes text. */
fun withProgram(generates: Boolean = false): File {
    val start = screenOf(StartActivity::class.java)
    start.press(R.string.import_program)
    choose(start, "toy.zip", Toy.zip(generates = generates))
    return toyApp.shelf.programs.single()
}
