package org.prge.app

import android.app.Activity
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView

/** The run that is trained: its curves, its speed, and pause, go on, stop. It shows what [Training.now] says. */
class TrainingActivity : Activity() {
    private lateinit var name: TextView
    private lateinit var phase: TextView
    private lateinit var told: TextView
    private lateinit var far: TextView
    private lateinit var fast: TextView
    private lateinit var good: TextView
    private lateinit var loss: CurveView
    private lateinit var accuracy: CurveView
    private lateinit var checks: LinearLayout
    private lateinit var buttons: LinearLayout
    private lateinit var pause: Button
    private lateinit var goOn: Button
    private lateinit var stop: Button
    private lateinit var tryIt: Button
    private val watch = Watch(::refresh)
    private var shown: Now? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        screen {
            name = heading("", 26f)
            phase = text().apply { accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE }
            told = faint()
            card {
                far = heading("")
                fast = faint()
            }
            card {
                heading(getString(R.string.loss_title))
                faint(getString(R.string.loss_hint))
                loss = CurveView(context).also { addView(it, context.below(8)) }
            }
            checks = card {
                heading(getString(R.string.accuracy_title))
                good = text()
                accuracy = CurveView(context).also { addView(it, context.below(8)) }
            }
            buttons = row {
                pause = button(R.string.pause) { app.training.pause() }
                goOn = button(R.string.go_on, main = true, ::goOn)
                stop = button(R.string.stop) { app.training.stop() }
            }
            tryIt = button(R.string.try_it, main = true) { startActivity(Intent(context, TryActivity::class.java)) }
        }
        // The notification is how the owner sees and stops the training from elsewhere.
        if (Build.VERSION.SDK_INT >= 33) requestPermissions(arrayOf(android.Manifest.permission.POST_NOTIFICATIONS), 0)
    }

    private fun goOn() {
        val now = app.training.now
        if (now.phase.active) app.training.goOn() else now.run?.let { TrainingService.start(this, it) }
    }

    private fun refresh() {
        val now = app.training.now
        if (now === shown) return
        shown = now
        name.text = now.run?.name ?: getString(R.string.nothing_trained)
        phase.text = words(now.phase)
        phase.setTextColor(getColor(if (now.phase is Phase.Failed) R.color.alarm else R.color.faint))
        told.text = now.run?.told?.takeIf { it.isFile }?.readText().orEmpty()
        told.show(told.text.isNotEmpty())
        val waits = now.phase == Phase.Paused || now.phase is Phase.Stopped || now.phase is Phase.Failed
        pause.show(now.phase.active && now.phase != Phase.Paused)
        goOn.show(waits && now.run != null)
        stop.show(now.phase.active)
        buttons.show(now.phase.active || waits)
        tryIt.show(now.phase == Phase.Done)
        draw(now.course ?: return far.setText(R.string.not_begun), now.phase)
    }

    private fun draw(course: Course, now: Phase) {
        far.text = getString(R.string.step_of, course.done, course.steps)
        val left = course.secondsLeft?.takeIf { now == Phase.Steps }?.let { getString(R.string.left, duration(it)) }
        fast.text = listOfNotNull(course.stepsPerSecond?.let(::speed), left).joinToString(" · ")
        val losses = Curve.ofLosses(course.losses)
        loss.show(listOf(losses), Scale.around(course.steps, listOf(losses), 0.2)) { "%.2f".format(it) }
        loss.contentDescription = losses.points.lastOrNull()
            ?.let { getString(R.string.loss_described, losses.points.first().second, it.second) }
        val right = Curve.ofAccuracies(course)
        checks.show(course.checks.isNotEmpty())
        accuracy.show(right.points.isNotEmpty())
        accuracy.show(listOf(right), Scale.around(course.steps, listOf(right), 0.1), ::percent)
        val before = course.before?.let(::words) ?: ""
        good.text = course.best?.let { getString(R.string.before_best, before, words(it)) } ?: ""
        accuracy.contentDescription = good.text
    }

    private fun View.show(whether: Boolean) {
        visibility = if (whether) View.VISIBLE else View.GONE
    }

    override fun onStart() {
        super.onStart()
        watch.start()
    }

    override fun onStop() {
        watch.stop()
        super.onStop()
    }
}
