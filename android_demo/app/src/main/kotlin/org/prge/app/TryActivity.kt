package org.prge.app

import android.app.Activity
import android.os.Bundle
import android.text.InputType
import android.view.Gravity
import android.view.View
import android.view.ViewGroup
import android.widget.AdapterView
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.Spinner

/** Type a message: what the model answered before the run, and what it answers now. */
class TryActivity : Activity() {
    private lateinit var run: Spinner
    private lateinit var fields: LinearLayout
    private lateinit var answers: LinearLayout
    private var runs: List<Kept> = emptyList()

    /** How often something was asked; text that an earlier question began is not gone on with. */
    @Volatile private var asked = 0

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        runs = app.shelf.runs.filter { it.begun }.sortedByDescending { it.folder.lastModified() }
        screen {
            heading(getString(R.string.try_it), 26f)
            if (runs.isEmpty()) {
                text(getString(R.string.no_run_yet))
                return@screen
            }
            text(getString(R.string.try_hint))
            card {
                faint(getString(R.string.run))
                run = choice(R.string.run, runs.map { it.name })
                fields = LinearLayout(context).apply { orientation = LinearLayout.VERTICAL }
                addView(fields, context.below(4))
                show(app.teacher.columns(runs[0]))
                run.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
                    override fun onItemSelected(list: AdapterView<*>, view: View?, place: Int, id: Long) =
                        show(app.teacher.columns(runs[place]))

                    override fun onNothingSelected(list: AdapterView<*>) = Unit
                }
                button(R.string.ask, main = true, ::ask)
            }
            answers = card {}.apply { visibility = View.GONE }
        }
    }

    /** A field for each column that the program is asked with; those that are there stay, with what is typed. */
    private fun show(columns: List<String>) {
        val names = if (columns.size == 1) listOf(getString(R.string.message)) else columns
        if (typed().map { it.hint.toString() } == names) return
        fields.removeAllViews()
        for ((i, name) in names.withIndex()) {
            val field = EditText(this).apply {
                id = IDS.getOrElse(i) { View.NO_ID }
                hint = name
                minLines = if (i == 0) 2 else 1
                gravity = Gravity.TOP or Gravity.START
                inputType = InputType.TYPE_CLASS_TEXT or InputType.TYPE_TEXT_FLAG_MULTI_LINE or
                    InputType.TYPE_TEXT_FLAG_CAP_SENTENCES
                backgroundTintList = context.getColorStateList(R.color.accent)
            }
            fields.addView(field, below(4))
        }
    }

    private fun typed(): List<EditText> = (0 until fields.childCount).map { fields.getChildAt(it) as EditText }

    /** Two programs at work would need the memory twice, so training comes first. */
    private fun ask() {
        val texts = typed().map { it.text.toString() }
        val chosen = runs[run.selectedItemPosition]
        if (texts.all { it.isBlank() }) return say(getString(R.string.write_first))
        if (app.training.now.phase.active && app.training.now.phase != Phase.Paused) return say(getString(R.string.pause_first))
        answers.removeAllViews()
        answers.faint(getString(R.string.thinking))
        answers.visibility = View.VISIBLE
        val turn = ++asked
        later(R.string.thinking, { app.teacher.ask(chosen, texts) to app.teacher.writes(chosen) }) { (found, writes) ->
            if (turn != asked) return@later
            show(found)
            if (writes) write(chosen, texts, if (found.labels.isEmpty()) PLAIN else BESIDE_LABELS, turn)
            else if (found.labels.isEmpty()) answers.text(getString(R.string.cannot_write))
        }
    }

    /** Shows what is written as it comes. */
    private fun write(chosen: Kept, texts: List<String>, titles: List<Int>, turn: Int) {
        val written = titles.map { title ->
            answers.heading(getString(title), 18f)
            answers.text().also { answers.gap(10) }
        }
        later(R.string.writing, {
            app.teacher.write(chosen, texts) { after, piece ->
                runOnUiThread { written[if (after) 1 else 0].append(piece) }
                turn == asked
            }
        }) {}
    }

    override fun onDestroy() {
        asked++
        super.onDestroy()
    }

    fun show(found: Teacher.Answers) {
        answers.removeAllViews()
        if (found.labels.isEmpty()) return
        val order = found.labels.indices.sortedByDescending { found.after[it] } // the same in both, to compare
        for ((title, shares) in listOf(R.string.before to found.before, R.string.after to found.after)) {
            answers.heading(getString(title), 18f)
            for (i in order) answers.bar(found.labels[i], shares[i])
            answers.gap(10)
        }
    }

    private fun ViewGroup.bar(label: String, share: Float) {
        val said = getString(R.string.label_share, label, percent(share.toDouble()))
        text(said)
        val bar = ProgressBar(context, null, android.R.attr.progressBarStyleHorizontal).apply {
            max = 1000
            progress = (1000 * share).toInt()
            progressTintList = context.getColorStateList(R.color.accent)
            // The line above says it.
            importantForAccessibility = View.IMPORTANT_FOR_ACCESSIBILITY_NO
        }
        addView(bar, context.below(2))
    }

    private companion object {
        /** Of fields whose content the system keeps when the screen turns. */
        val IDS = listOf(R.id.message, R.id.second, R.id.third)
        val PLAIN = listOf(R.string.before, R.string.after)
        val BESIDE_LABELS = listOf(R.string.text_before, R.string.text_after)
    }
}
