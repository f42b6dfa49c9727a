package org.prge.app

import android.app.Activity
import android.content.Intent
import android.view.View
import android.widget.LinearLayout
import android.widget.Spinner
import android.widget.TextView
import java.io.File

/** The first screen: what the app does, the demo in one tap, the owner's own programs and examples, what is kept. */
class StartActivity : Activity() {
    private lateinit var busy: TextView
    private lateinit var active: LinearLayout
    private lateinit var activeText: TextView
    private lateinit var program: Spinner
    private lateinit var data: Spinner
    private lateinit var steps: Spinner
    private val watch = Watch(::refresh)

    /** The screen, with what was chosen on it before. */
    private fun draw() {
        val before = if (::steps.isInitialized) listOf(program, data, steps).map { it.selectedItem as String } else emptyList()
        show()
        for ((spinner, name) in listOf(program, data, steps).zip(before))
            (0 until spinner.count).firstOrNull { spinner.getItemAtPosition(it) == name }?.let { spinner.setSelection(it) }
    }

    private fun show() = screen {
        heading(getString(R.string.app_name), 32f)
        text(getString(R.string.what_it_does))
        busy = faint().apply { accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE }
        active = card {
            activeText = heading("")
            button(R.string.show, main = true) { go(TrainingActivity::class.java) }
        }
        unfinished()?.let { (run, course) ->
            card {
                heading(getString(R.string.unfinished, run.name))
                text(getString(R.string.step_of, course?.done ?: 0, course?.steps ?: Asked.read(run).steps))
                button(R.string.go_on, main = true) { train(run) }
            }
        }
        card {
            heading(getString(R.string.demo_title))
            text(getString(R.string.demo_text))
            button(R.string.demo_button, main = true, ::teachDemo)
        }
        card {
            heading(getString(R.string.own_title))
            faint(getString(R.string.program))
            program = choice(R.string.program, app.shelf.programs.map { it.name }.ifEmpty { listOf(getString(R.string.no_program)) })
            faint(getString(R.string.data))
            data = choice(R.string.data, app.shelf.data.map(::named).ifEmpty { listOf(getString(R.string.no_data)) })
            faint(getString(R.string.steps))
            steps = choice(R.string.steps, STEPS.map { it.toString() }, 1)
            button(R.string.teach, main = true, ::teachOwn)
            row {
                button(R.string.import_program) { open(PROGRAM, "application/zip", "application/octet-stream") }
                button(R.string.import_data) { open(DATA, "*/*") }
            }
            faint(getString(R.string.share_hint)).setPadding(0, dp(8), 0, 0)
        }
        card {
            row {
                button(R.string.try_it) { go(TryActivity::class.java) }
                button(R.string.runs) { go(RunsActivity::class.java) }
            }
            row {
                button(R.string.rules) { go(RulesActivity::class.java) }
                button(R.string.benchmark) { go(BenchmarkActivity::class.java) }
            }
        }
        refresh()
    }

    /** The newest run that was begun and is not done, where none is active. */
    private fun unfinished(): Pair<Kept, Course?>? = app.shelf.runs
        .filter { !app.training.now.phase.active && it.asked }
        .map { it to Course.read(it.run) }
        .filter { (_, course) -> course == null || course.done < course.steps }
        .maxByOrNull { (run, _) -> run.folder.lastModified() }

    private fun named(file: File): String =
        if (file == app.messages.file) getString(R.string.your_messages, app.messages.count) else file.name

    private fun refresh() {
        busy.visibility = if (app.busyWith == 0) View.GONE else View.VISIBLE
        if (app.busyWith != 0) busy.setText(app.busyWith)
        val now = app.training.now
        active.visibility = if (now.phase.active) View.VISIBLE else View.GONE
        activeText.text = getString(R.string.training_run, now.run?.name ?: "")
    }

    private fun teachDemo() = later(R.string.preparing_demo, { demoProgram(this) to demoData(this) }) { (program, files) ->
        if (program == null) say(getString(R.string.demo_needs_program))
        else begin(Asked(program, files.first, files.second, 300), "demo")
    }

    private fun teachOwn() {
        val program = app.shelf.programs.getOrNull(program.selectedItemPosition)
        val data = app.shelf.data.getOrNull(data.selectedItemPosition)
        when {
            program == null -> say(getString(R.string.no_program_yet))
            data == null -> say(getString(R.string.no_data_yet))
            else -> begin(Asked(program, data, null, STEPS[steps.selectedItemPosition]), data.nameWithoutExtension)
        }
    }

    private fun begin(asked: Asked, name: String) {
        val run = Kept(app.shelf.free("runs", name))
        asked.write(run)
        train(run)
    }

    private fun train(run: Kept) {
        TrainingService.start(this, run)
        go(TrainingActivity::class.java)
    }

    private fun go(screen: Class<out Activity>) = startActivity(Intent(this, screen))

    private fun open(request: Int, vararg types: String) = startActivityForResult(openDocument(*types), request)

    @Deprecated("Its successor is not part of the framework.")
    override fun onActivityResult(request: Int, result: Int, given: Intent?) {
        val uri = given?.data ?: return
        if (result != RESULT_OK) return
        if (request == PROGRAM) later(R.string.importing, { takeProgram(this, uri) }) { draw() }
        if (request == DATA) later(R.string.importing, { takeData(this, uri) }) { draw() }
    }

    override fun onStart() {
        super.onStart()
        draw()
        watch.start()
    }

    override fun onStop() {
        watch.stop()
        super.onStop()
    }

    companion object {
        val STEPS = listOf(100, 300, 1000)
        private const val PROGRAM = 1
        private const val DATA = 2
    }
}
