package org.prge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.net.Uri
import android.widget.EditText
import android.widget.ProgressBar
import java.io.ByteArrayOutputStream
import java.io.File
import java.util.zip.ZipInputStream
import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowAlertDialog

/** Every flow of the app, through its screens, with the real driver on a toy runtime. */
@RunWith(RobolectricTestRunner::class)
@Config(application = ToyApp::class)
class FlowTest {
    private val training get() = toyApp.training

    @After fun end() = org.prge.app.end()

    /** Teaches the demo until [steps] are made, or all of them. */
    private fun teachDemo(steps: Int = 300, generates: Boolean = false): Kept {
        withProgram(generates)
        val start = screenOf(StartActivity::class.java)
        start.press(R.string.demo_button)
        until("the demo is asked for") { toyApp.shelf.runs.isNotEmpty() }
        service()
        until("$steps steps") { (training.now.course?.done ?: 0) >= steps || !training.now.phase.active }
        return toyApp.shelf.runs.single()
    }

    @Test
    fun `the demo is taught, and better than before`() {
        val run = teachDemo()
        until("done") { training.now.phase == Phase.Done }
        val course = Course.read(run.run)!!
        assertEquals(300, course.done)
        val (before, best) = listOf(course.before, course.best).map { it!!.accuracy!! }
        assertTrue("$before, $best", best > before + 0.1)
        val screen = screenOf(TrainingActivity::class.java)
        assertTrue(screen.texts().toString(), getsAll(screen, "demo", "Step 300 of 300", screen.getString(R.string.done)))
    }

    private fun getsAll(screen: Activity, vararg wanted: String) = screen.texts().containsAll(wanted.toList())

    @Test
    fun `paused, gone on with, stopped, and gone on with by another process, a run is that of one go`() {
        val run = teachDemo(40)
        val screen = screenOf(TrainingActivity::class.java)
        screen.press(R.string.pause)
        until("pause") { training.now.phase == Phase.Paused }
        val paused = training.now.course!!.done
        screen.press(R.string.go_on)
        until("more steps") { training.now.course!!.done > paused + 20 }
        screen.press(R.string.stop)
        until("stop") { training.now.phase is Phase.Stopped }
        assertTrue(training.now.course!!.done < 300)

        // A new process has the files alone.
        val fresh = Training(toyApp.teacher, { Rules() }, { Phone(true, 100, 0) })
        fresh.start(Kept(run.folder))
        fresh.join()
        assertEquals(Phase.Done, fresh.now.phase)

        val asked = Asked.read(run)
        val whole = Kept(toyApp.shelf.free("runs", "whole"))
        asked.write(whole)
        Training(toyApp.teacher, { Rules() }, { Phone(true, 100, 0) }).apply { start(whole); join() }
        for (file in listOf("best.safetensors", "state.safetensors"))
            assertTrue(file, File(run.run, file).readBytes().contentEquals(File(whole.run, file).readBytes()))
    }

    @Test
    fun `after the process ended, the first screen offers to go on`() {
        val run = teachDemo(20)
        training.stop()
        until("stop") { !training.now.phase.active }
        val start = screenOf(StartActivity::class.java)
        assertTrue(start.texts().toString(), start.getString(R.string.unfinished, run.name) in start.texts())
        start.press(R.string.go_on)
        service()
        until("more steps") { training.now.phase == Phase.Done }
        assertFalse(start.getString(R.string.unfinished, run.name) in screenOf(StartActivity::class.java).texts())
    }

    @Test
    fun `the notification shows the step and stops the training`() {
        teachDemo(20)
        val manager = toyApp.getSystemService(android.app.NotificationManager::class.java)
        val shown = shadowOf(manager).allNotifications.single()
        assertEquals(toyApp.getString(R.string.stop), shown.actions.single().title.toString())
        assertTrue(shown.flags and android.app.Notification.FLAG_ONGOING_EVENT != 0)
        shown.actions.single().actionIntent.send()
        service()
        until("stop") { training.now.phase is Phase.Stopped }
    }

    @Test
    fun `a damaged program is refused with a sentence, and nothing of it stays`() {
        val start = screenOf(StartActivity::class.java)
        start.press(R.string.import_program)
        choose(start, "toy.zip", Toy.zip { name, bytes -> if (name == "program.pte") bytes.also { it[5]++ } else bytes })
        assertTrue(said(), said()!!.contains("is damaged: it is not what it was sealed as"))
        assertTrue(toyApp.shelf.programs.isEmpty())
        assertEquals(emptyList<File>(), File(toyApp.filesDir, "programs").listFiles()!!.toList())
    }

    @Test
    fun `examples of one's own are taught, and errors in them are told`() {
        withProgram()
        for ((name, content) in listOf("good.tsv" to GOOD, "bad.tsv" to "text\tlabel\nhello\tnever\n")) {
            val start = screenOf(StartActivity::class.java)
            start.press(R.string.import_data)
            choose(start, name, content.toByteArray())
        }
        val start = screenOf(StartActivity::class.java)
        assertEquals(listOf("bad.tsv", "good.tsv"), toyApp.shelf.data.map { it.name })
        start.press(R.string.teach)
        service()
        until("the sentence") { training.now.phase is Phase.Failed }
        assertTrue(words(), words().contains("never"))
        val screen = screenOf(TrainingActivity::class.java)
        assertTrue(words() in screen.texts())

        start.root.all().filterIsInstance<android.widget.Spinner>().elementAt(1).setSelection(1)
        idle()
        start.press(R.string.teach)
        service()
        until("done") { training.now.phase == Phase.Done }
    }

    private fun words() = toyApp.words(training.now.phase)

    @Test
    fun `a shared message becomes an example`() {
        withProgram()
        val shared = Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, "Call me, \"now\"\nplease")
        val share = screenOf(ShareActivity::class.java, shared)
        share.press(share.getString(R.string.keep_as, "today"))
        assertTrue(share.isFinishing)
        assertEquals("{\"text\":\"Call me, \\\"now\\\"\\nplease\",\"label\":\"today\"}\n", toyApp.messages.file.readText())
        assertEquals(1, toyApp.messages.count)
        assertTrue(toyApp.messages.file in toyApp.shelf.data)
    }

    @Test
    fun `a message is answered before and after`() {
        teachDemo()
        until("done") { training.now.phase == Phase.Done }
        val screen = screenOf(TryActivity::class.java)
        screen.press(R.string.ask)
        assertEquals(screen.getString(R.string.write_first), said())
        screen.root.all().filterIsInstance<EditText>().single().setText("Your order has shipped")
        screen.press(R.string.ask)
        until("the answers") { screen.root.all().filterIsInstance<ProgressBar>().count() == 4 }
        // Zeros answer by halves.
        assertEquals(2, screen.texts().count { it.endsWith(", 50 %") })
        assertFalse(screen.texts().takeLast(2).any { it.endsWith(", 50 %") })
    }

    @Test
    fun `text is written with and without what was learned, as the tokenizer spells it`() {
        val run = teachDemo(generates = true)
        until("done") { training.now.phase == Phase.Done }
        writes(run, "hello This is", R.string.text_before, "hello")
    }

    @Test
    fun `a program of answers is taught, and writes its own before and after`() {
        val run = taught("text", "qa.jsonl") { "{\"question\": \"who is $it\", \"answer\": \"number $it\"}\n" }
        writes(run, "Question: who\nAnswer:", R.string.before, "who")
    }

    @Test
    fun `a program of chats is taught with another app's conversations, and answers in turn`() {
        val run = taught("chat", "talk.json") {
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"hi $it\"}, {\"from\": \"gpt\", \"value\": \"yes $it\"}]}\n"
        }
        writes(run, "<begin><start>user\ngood?<end>\n<start>assistant\n", R.string.before, "good?")
    }

    @Test
    fun `a program of two columns has a field for each`() {
        val template = "{title}: {text}"
        taught("classification", "news.csv", { it.replace("{text} This is", template) }) {
            if (it == 1) "title,text,label\n" else "call me,number $it,${if (it % 2 == 0) "TODAY" else "later"}\n"
        }
        val told = screenOf(TrainingActivity::class.java).texts()
        assertTrue(told.toString(), told.any { it.startsWith("read as 'today', which they spell otherwise: 20 rows") })
        val screen = screenOf(TryActivity::class.java)
        val fields = screen.root.all().filterIsInstance<EditText>().toList()
        assertEquals(listOf("title", "text"), fields.map { it.hint.toString() })
        for (field in fields) field.setText("number")
        screen.press(R.string.ask)
        until("the answers") { screen.root.all().filterIsInstance<ProgressBar>().count() == 4 }
    }

    @Test
    fun `a file of prge pack is taught as it is`() {
        val first = teachDemo()
        until("done") { training.now.phase == Phase.Done }
        val start = screenOf(StartActivity::class.java)
        start.press(R.string.import_data)
        choose(start, "packed.prge", first.data.readBytes())
        start.press(R.string.teach)
        service()
        until("done") { training.now.run!!.name == "packed" && training.now.phase == Phase.Done }
        assertTrue(first.data.readBytes().contentEquals(training.now.run!!.data.readBytes()))
    }

    /** A run of a program like a golden one, with 40 lines of examples; it is done. */
    private fun taught(
        golden: String, name: String, change: (String) -> String = { it }, line: (Int) -> String,
    ): Kept {
        val start = screenOf(StartActivity::class.java)
        start.press(R.string.import_program)
        choose(start, "toy.zip", Toy.zip(generates = true, golden = golden, text = change))
        start.press(R.string.import_data)
        choose(start, name, (1..40).joinToString("", transform = line).toByteArray())
        start.press(R.string.teach)
        service()
        until("the end") { training.now.run != null && !training.now.phase.active }
        assertEquals(words(), Phase.Done, training.now.phase)
        return training.now.run!!
    }

    /** Asks a run's program, and looks whether it goes on with [prompt] before as the toy does, and otherwise after. */
    private fun writes(run: Kept, prompt: String, heading: Int, vararg texts: String) {
        val screen = screenOf(TryActivity::class.java)
        for ((field, text) in screen.root.all().filterIsInstance<EditText>().toList().zip(texts)) field.setText(text)
        screen.press(R.string.ask)
        val title = screen.getString(heading)
        until("both texts") { title in screen.texts() && toyApp.busyWith == 0 }
        val (before, after) = screen.texts().run { listOf(get(indexOf(title) + 1), last()) }
        assertTrue("$before, $after", before.isNotEmpty() && after.isNotEmpty() && before != after)
        val tokenizer = org.prge.tokenizer.Tokenizer.read(File(Asked.read(run).program, "tokenizer.json"))
        val asked = tokenizer.encode(prompt)
        val tokens = asked + IntArray(64) { (asked.last() + 1 + it) % 393 }
        assertEquals(tokenizer.decode(tokens).removePrefix(tokenizer.decode(asked)).trimEnd('\uFFFD'), before)
    }

    @Test
    fun `what was chosen stays when the phone is turned, and when the screen comes back`() {
        withProgram()
        for (name in listOf("a.tsv", "c.tsv")) {
            val start = screenOf(StartActivity::class.java)
            start.press(R.string.import_data)
            choose(start, name, GOOD.toByteArray())
        }
        val start = controllerOf(StartActivity::class.java)
        fun chosen() = start.get().root.all().filterIsInstance<android.widget.Spinner>().map { it.selectedItem }.toList()
        fun spinner(place: Int) = start.get().root.all().filterIsInstance<android.widget.Spinner>().elementAt(place)
        spinner(1).setSelection(1)
        spinner(2).setSelection(2)
        idle()
        val expected = listOf("toy", "c.tsv", "${StartActivity.STEPS[2]}")
        assertEquals(expected, chosen())
        start.recreate()
        idle()
        assertEquals(expected, chosen())
        start.pause().stop()
        toyApp.shelf.free("data", "b.tsv").writeText(GOOD) // which stands before the chosen one
        start.restart().start().resume()
        idle()
        assertEquals(expected, chosen())
    }

    @Test
    fun `runs are compared, exported without hidden states, and removed`() {
        val run = teachDemo()
        until("done") { training.now.phase == Phase.Done }
        val screen = screenOf(RunsActivity::class.java)
        screen.press(R.string.compare)
        assertTrue(screen.texts().toString(), screen.texts().any { it.startsWith("demo: ") })

        screen.press(R.string.export)
        val asked = shadowOf(screen).nextStartedActivityForResult.intent
        assertEquals(Intent.ACTION_CREATE_DOCUMENT to "demo.zip", asked.action to asked.getStringExtra(Intent.EXTRA_TITLE))
        val uri = Uri.parse("content://files/demo.zip")
        val written = ByteArrayOutputStream()
        shadowOf(screen.contentResolver).registerOutputStream(uri, written)
        shadowOf(screen).receiveResult(asked, Activity.RESULT_OK, Intent().setData(uri))
        until("export") { said() == screen.getString(R.string.exported, "demo") }
        val names = ZipInputStream(written.toByteArray().inputStream()).use { zip ->
            generateSequence { zip.nextEntry }.map { it.name }.toSet()
        }
        val expected = setOf(
            "config.json", "log.jsonl", "state.safetensors", "best.safetensors", "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
        ).map { "run/$it" }
        assertTrue(names.toString(), names.containsAll(expected + "data.prge"))
        assertFalse(names.any { "hidden" in it })

        screen.press(R.string.remove)
        ShadowAlertDialog.getLatestAlertDialog().let { it as AlertDialog }.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
        until("removal") { toyApp.shelf.runs.isEmpty() }
        assertFalse(run.folder.exists())
    }

    @Test
    fun `the benchmark times a step and leaves nothing but its report`() {
        withProgram()
        val screen = screenOf(BenchmarkActivity::class.java)
        screen.press(R.string.time_it)
        until("times") { look(); screen.texts().any { "s a step (" in it } }
        assertNull(File(toyApp.cacheDir, "benchmark").list())
    }

    @Test
    fun `a benchmark's report is saved where its owner chooses`() {
        withProgram()
        val screen = screenOf(BenchmarkActivity::class.java)
        screen.press(R.string.time_it)
        until("times") { look(); screen.texts().any { "s a step (" in it } }
        screen.press(R.string.save_report)
        val asked = shadowOf(screen).nextStartedActivityForResult.intent
        val uri = Uri.parse("content://files/step.json")
        val written = ByteArrayOutputStream()
        shadowOf(screen.contentResolver).registerOutputStream(uri, written)
        shadowOf(screen).receiveResult(asked, Activity.RESULT_OK, Intent().setData(uri))
        until("saved") { said() == screen.getString(R.string.report_saved) }
        assertTrue(written.toString(), "\"contender\":\"toy\"" in written.toString())
    }

    @Test
    fun `rules are kept, and hold training back at once`() {
        teachDemo(10)
        toyApp.rules = Rules(leastBattery = 80)
        val screen = screenOf(RulesActivity::class.java)
        assertTrue("80 %" in screen.texts())
        toyApp.sendStickyBroadcast(
            Intent(Intent.ACTION_BATTERY_CHANGED).putExtra(android.os.BatteryManager.EXTRA_PLUGGED, 0)
                .putExtra(android.os.BatteryManager.EXTRA_LEVEL, 50).putExtra(android.os.BatteryManager.EXTRA_SCALE, 100),
        )
        until("waiting") { training.now.phase == Phase.Waiting(Verdict.NEEDS_CHARGER) }
        toyApp.rules = Rules(onlyCharging = false, leastBattery = 80)
        until("waiting") { training.now.phase == Phase.Waiting(Verdict.BATTERY_LOW) }
        toyApp.rules = Rules(onlyCharging = false, leastBattery = 20)
        until("steps") { training.now.phase == Phase.Done }
    }

    private companion object {
        val GOOD = "text\tlabel\n" + (1..40).joinToString("") { if (it % 2 == 0) "call me $it\ttoday\n" else "no hurry $it\tlater\n" }
    }
}
