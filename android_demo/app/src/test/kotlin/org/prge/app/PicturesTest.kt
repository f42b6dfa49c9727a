package org.prge.app

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.Canvas
import android.widget.EditText
import java.io.File
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.prge.Benchmark
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/**
 * Draws each screen with Android's own graphics, in light and dark, with large letters, right to left and in German, into
 * `target/pictures`. Nothing that is read may be cut off, and all that is pressed is large enough for a finger.
 */
@RunWith(RobolectricTestRunner::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@Config(application = ToyApp::class, qualifiers = "w360dp-h760dp-hdpi")
class PicturesTest {
    @After fun end() = org.prge.app.end()

    @Test
    fun light() = draw("light")

    @Test
    @Config(qualifiers = "+night")
    fun dark() = draw("dark")

    @Test
    fun large() {
        RuntimeEnvironment.setFontScale(1.8f)
        draw("large")
    }

    @Test
    @Config(qualifiers = "+ar-rXB-ldrtl")
    fun `right to left`() = draw("rtl")

    @Test
    @Config(qualifiers = "+de")
    fun german() = draw("german")

    private fun draw(kind: String) {
        draw(screenOf(StartActivity::class.java), "start-$kind")
        val program = withProgram()
        for ((name, seed) in listOf("demo" to 0, "messages" to 3)) ended(program, name, seed)
        draw(screenOf(StartActivity::class.java), "start-program-$kind")
        toyApp.training.start(toyApp.shelf.run("demo"))
        until("steps") { (toyApp.training.now.course?.done ?: 0) > 160 }
        toyApp.training.pause()
        until("pause") { toyApp.training.now.phase == Phase.Paused }
        draw(screenOf(TrainingActivity::class.java), "training-$kind")
        val runs = screenOf(RunsActivity::class.java)
        for (box in runs.root.all().filterIsInstance<android.widget.CheckBox>()) box.isChecked = true
        draw(runs, "runs-$kind")
        val tries = screenOf(TryActivity::class.java)
        tries.root.all().filterIsInstance<EditText>().single().setText("Can you call me back before three? The bank needs an answer")
        tries.press(R.string.ask)
        until("answers") { tries.root.all().filterIsInstance<android.widget.ProgressBar>().any() }
        draw(tries, "try-$kind")
        draw(screenOf(RulesActivity::class.java), "rules-$kind")
        val times = screenOf(BenchmarkActivity::class.java)
        times.show(Benchmark("toy", 32, listOf(0.81, 0.79, 0.84)))
        draw(times, "benchmark-$kind")
    }

    /** A run with some steps. */
    private fun ended(program: File, name: String, steps: Int) {
        val run = Kept(toyApp.shelf.free("runs", name))
        val (train, dev) = demoData(toyApp)
        Asked(program, train, dev, 300).write(run)
        val training = Training(toyApp.teacher, { Rules() }, { Phone(true, 100, 0) })
        training.start(run)
        until("steps of $name") { (training.now.course?.done ?: 0) > 60 + 40 * steps || !training.now.phase.active }
        training.stop()
        training.join()
    }

    private fun draw(activity: Activity, name: String) {
        look()
        val view = activity.window.decorView
        view.jumpDrawablesToCurrentState() // boxes that were checked a moment ago
        val bitmap = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
        view.draw(Canvas(bitmap))
        val file = File("target/pictures/$name.png")
        file.parentFile.mkdirs()
        file.outputStream().use { bitmap.compress(Bitmap.CompressFormat.PNG, 100, it) }
        check(activity)
    }

    private fun check(activity: Activity) {
        val density = activity.resources.displayMetrics.density
        for (view in activity.root.all().filter { it.isShown }) {
            if (view is android.widget.TextView && view.layout != null)
                for (line in 0 until view.layout.lineCount) {
                    assertEquals("${view.text} is cut off", 0, view.layout.getEllipsisCount(line))
                    val end = view.layout.getLineEnd(line)
                    val whole = end == view.text.length || view.text[end - 1].let { it.isWhitespace() || it == '-' || it == '/' }
                    assertTrue("a word of “${view.text}” is cut in two", whole)
                }
            if (view.isClickable && view !is EditText)
                assertTrue("$view is too small", view.height >= 32 * density && view.width >= 48 * density)
            if (view is CurveView) assertTrue(view.contentDescription.isNotEmpty())
        }
    }
}
