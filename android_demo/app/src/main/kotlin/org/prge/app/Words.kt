package org.prge.app

import android.content.Context
import org.prge.loop.Evaluation

// Numbers and phases as words.

fun Context.words(phase: Phase): String = when (phase) {
    Phase.Idle -> ""
    Phase.Loading -> getString(R.string.loading)
    is Phase.Reading -> getString(R.string.reading, (100 * phase.share).toInt())
    Phase.Steps -> getString(R.string.steps_running)
    is Phase.Waiting -> words(phase.reason)
    Phase.Paused -> getString(R.string.paused)
    Phase.Done -> getString(R.string.done)
    is Phase.Stopped -> if (phase.reason == Verdict.TIME_IS_UP) words(phase.reason) else getString(R.string.stopped)
    is Phase.Failed -> phase.sentence ?: getString(R.string.no_memory)
}

fun Context.words(verdict: Verdict): String = getString(
    when (verdict) {
        Verdict.GO -> R.string.steps_running
        Verdict.NEEDS_CHARGER -> R.string.needs_charger
        Verdict.BATTERY_LOW -> R.string.battery_low
        Verdict.TOO_WARM -> R.string.too_warm
        Verdict.TIME_IS_UP -> R.string.time_is_up
    },
)

fun Context.duration(seconds: Double): String {
    val minutes = Math.ceil(seconds / 60).toInt()
    return if (minutes < 60) resources.getQuantityString(R.plurals.minutes, minutes, minutes)
    else getString(R.string.hours, minutes / 60, minutes % 60)
}

/** Steps per second, or seconds per step where that says more. */
fun Context.speed(perSecond: Double): String =
    if (perSecond >= 1) getString(R.string.per_second, perSecond) else getString(R.string.each_takes, 1 / perSecond)

fun percent(share: Double): String = "%d %%".format(Math.round(100 * share))

/** What an evaluation found: right answers where there is something to choose, else the loss. */
fun Context.words(found: Evaluation): String =
    found.accuracy?.let { getString(R.string.right, percent(it)) } ?: getString(R.string.loss_is, found.loss)
