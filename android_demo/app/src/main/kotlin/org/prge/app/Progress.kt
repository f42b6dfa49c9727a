package org.prge.app

import org.prge.loop.Evaluation
import org.prge.loop.StepRecord

/**
 * How far a run is, in what a screen shows.
 *
 * @property steps of the whole run.
 * @property losses of each step so far, of the batch before the step; NaN where it was not finite.
 * @property checks evaluations, by how many steps were made before them.
 * @property seconds of each step.
 */
data class Progress(
    val steps: Int,
    val losses: List<Double>,
    val checks: List<Pair<Int, Evaluation>>,
    val seconds: List<Double>,
) {
    val done get() = losses.size

    /** Of the last steps, which say better than all of them how fast the phone is now. Null before the first one. */
    val stepsPerSecond: Double?
        get() = seconds.takeLast(RECENT).takeIf { it.isNotEmpty() }?.let { it.size / it.sum() }

    /** Without evaluations; null where it cannot be said. */
    val secondsLeft: Double? get() = stepsPerSecond?.let { (steps - done) / it }

    /** Share of right answers before the first step. */
    val before: Evaluation? get() = checks.firstOrNull { it.first == 0 }?.second

    /** The evaluation whose state the run keeps. */
    val best: Evaluation? get() = checks.map { it.second }.filter { it.loss.isFinite() }
        .maxWithOrNull(compareBy<Evaluation> { it.accuracy ?: 0.0 }.thenByDescending { it.loss })

    companion object {
        private const val RECENT = 20

        fun of(steps: Int, records: List<StepRecord>) = Progress(
            steps,
            records.map { it.loss },
            records.flatMap { r -> listOfNotNull(r.before?.let { 0 to it }, r.dev?.let { r.step + 1 to it }) },
            records.map { it.seconds },
        )
    }
}
