package org.prge.app

import android.app.Activity
import android.content.Intent
import android.widget.CheckBox
import android.widget.LinearLayout
import android.widget.TextView
import org.prge.run.exportRun

/** The runs that are kept: compared, exported for a workstation, gone on with, or removed. */
class RunsActivity : Activity() {
    private val compared = LinkedHashSet<String>()
    private lateinit var picture: CurveView
    private lateinit var legend: TextView
    private lateinit var comparison: LinearLayout
    private var exported: String? = null

    override fun onStart() {
        super.onStart()
        draw()
    }

    private fun draw() {
        val runs = app.shelf.runs.filter { it.asked }.sortedByDescending { it.folder.lastModified() }
        val courses = runs.associateWith { Course.read(it.run) }
        screen {
            heading(getString(R.string.runs), 26f)
            if (runs.isEmpty()) text(getString(R.string.no_run_yet))
            comparison = card {
                heading(getString(R.string.compare_title))
                picture = CurveView(context).also { addView(it, context.below(8)) }
                legend = faint()
            }
            for ((run, course) in courses) card {
                heading(run.name)
                text(getString(R.string.step_of, course?.done ?: 0, course?.steps ?: 0))
                val best = course?.best
                if (best != null) text(getString(R.string.before_best, course.before?.let(::words) ?: "", words(best)))
                if (best != null) addView(compareBox(run, courses), context.below(4))
                row {
                    if (course == null || course.done < course.steps) button(R.string.go_on) { goOn(run) }
                    if (run.begun) button(R.string.export) { export(run) }
                    button(R.string.remove) { remove(run) }
                }
            }
        }
        compare(courses)
    }

    private fun compareBox(run: Kept, courses: Map<Kept, Course?>) = CheckBox(this).apply {
        text = getString(R.string.compare)
        isChecked = run.name in compared
        setOnCheckedChangeListener { _, checked ->
            if (checked) compared += run.name else compared -= run.name
            compare(courses)
        }
    }

    private fun compare(courses: Map<Kept, Course?>) {
        val chosen = courses.filter { (run, course) -> run.name in compared && course != null }
            .entries.take(CurveView.COLORS.size)
        comparison.visibility = if (chosen.isEmpty()) android.view.View.GONE else android.view.View.VISIBLE
        val curves = chosen.map { Curve.ofAccuracies(it.value!!) }
        picture.show(curves, Scale.around(chosen.maxOfOrNull { it.value!!.steps } ?: 1, curves, 0.1), ::percent)
        legend.text = colored(chosen.map { (run, course) -> "${run.name}: ${course!!.best?.let(::words)}" })
        picture.contentDescription = legend.text
    }

    /** Lines, each in the color of its curve. */
    private fun colored(lines: List<String>) = android.text.SpannableStringBuilder().apply {
        for ((i, line) in lines.withIndex()) append(
            if (i > 0) "\n$line" else line,
            android.text.style.ForegroundColorSpan(getColor(CurveView.COLORS[i])), 0,
        )
    }

    private fun goOn(run: Kept) {
        if (app.training.now.phase.active) return say(getString(R.string.one_at_a_time))
        TrainingService.start(this, run)
        startActivity(Intent(this, TrainingActivity::class.java))
    }

    private fun isTrained(run: Kept) = app.training.now.let { it.phase.active && it.run?.name == run.name }

    private fun remove(run: Kept) {
        if (isTrained(run)) return say(getString(R.string.stop_first))
        ask(getString(R.string.remove_question, run.name), R.string.remove) {
            later(R.string.removing, { app.shelf.remove(run.folder) }) { draw() }
        }
    }

    private fun export(run: Kept) {
        if (isTrained(run)) return say(getString(R.string.stop_first))
        exported = run.name
        startActivityForResult(createDocument("application/zip", "${run.name}.zip"), 1)
    }

    @Deprecated("Its successor is not part of the framework.")
    override fun onActivityResult(request: Int, result: Int, given: Intent?) {
        val uri = given?.data ?: return
        val run = app.shelf.run(exported ?: return)
        if (result != RESULT_OK) return
        later(R.string.exporting, { contentResolver.openOutputStream(uri)!!.use { exportRun(run.run, run.data, it) } }) {
            say(getString(R.string.exported, run.name))
        }
    }

    override fun onSaveInstanceState(kept: android.os.Bundle) {
        kept.putString("exported", exported)
        super.onSaveInstanceState(kept)
    }

    override fun onRestoreInstanceState(kept: android.os.Bundle) {
        super.onRestoreInstanceState(kept)
        exported = kept.getString("exported")
    }
}
