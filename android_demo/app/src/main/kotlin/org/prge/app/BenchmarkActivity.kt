package org.prge.app

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.Spinner
import android.widget.TextView
import java.io.File
import org.prge.Benchmark

/** Times a program's step on this phone, for a report that a workstation compares with others. */
class BenchmarkActivity : Activity() {
    private lateinit var program: Spinner
    private lateinit var found: TextView
    private lateinit var save: Button
    private val report get() = File(cacheDir, "step.json")

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val programs = app.shelf.programs
        screen {
            heading(getString(R.string.benchmark), 26f)
            text(getString(R.string.benchmark_hint))
            if (programs.isEmpty()) {
                text(getString(R.string.no_program_yet))
                return@screen
            }
            card {
                faint(getString(R.string.program))
                program = choice(R.string.program, programs.map { it.name })
                button(R.string.time_it, main = true) { time(programs[program.selectedItemPosition]) }
                gap(8)
                found = text().apply { accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE }
                save = button(R.string.save_report, pressed = ::saveReport)
                save.visibility = View.GONE
            }
        }
    }

    /** Not in the lambda above: there a hidden method of the view, of the same name, would take the result. */
    private fun saveReport() = startActivityForResult(createDocument("application/json", report.name), 1)

    private fun time(program: File) {
        if (app.training.now.phase.active) return say(getString(R.string.one_at_a_time))
        found.setText(R.string.timing)
        later(R.string.timing, {
            app.teacher.time(program, File(cacheDir, "benchmark"), TOKENS) { step ->
                runOnUiThread { found.text = getString(R.string.timed_so_far, step, Benchmark.ROUNDS) }
            }.also { report.writeText("${it.report(machineOf(this))}\n") }
        }, ::show)
    }

    fun show(times: Benchmark) {
        found.text = getString(
            R.string.timed, times.median, times.seconds.min(), times.seconds.max(), times.tokens,
        )
        save.visibility = View.VISIBLE
    }

    @Deprecated("Its successor is not part of the framework.")
    override fun onActivityResult(request: Int, result: Int, given: Intent?) {
        val uri = given?.data ?: return
        if (result != RESULT_OK) return
        later(R.string.exporting, { contentResolver.openOutputStream(uri)!!.use { report.inputStream().copyTo(it) } }) {
            say(getString(R.string.report_saved))
        }
    }

    private companion object {
        /** As `prge bench step` has it, so that reports compare. */
        const val TOKENS = 32
    }
}
