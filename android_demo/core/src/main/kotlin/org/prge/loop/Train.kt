package org.prge.loop

import kotlin.math.pow
import kotlin.math.sqrt
import org.prge.program.Manifest

/**
 * A run's settings, once all of them are known.
 *
 * @property lr of the first step; it falls linearly to zero at the end.
 * @property eps size of the perturbation.
 * @property seed of the batches and the directions.
 * @property evalEvery steps between evaluations; 0 for one at the end alone.
 * @property after how many steps made the state that the run begins with. It goes on behind their batches.
 */
internal class TrainConfig(
    val steps: Int,
    val lr: Double,
    val eps: Double,
    val seed: Long,
    val evalEvery: Int,
    val after: Int,
) {
    /** The lr that the program is given: decayed, and corrected for the optimizer's means, which begin at zero. */
    fun lrAt(step: Int, optimizer: String, betaMean: Double, betaSquare: Double): Double {
        val now = lr * (1.0 - step.toDouble() / steps)
        val behind = (after + step + 1).toDouble()
        val mean = 1.0 - betaMean.pow(behind)
        val square = 1.0 - betaSquare.pow(behind)
        return when (optimizer) {
            "sgd" -> now
            "momentum" -> now / mean
            else -> now * sqrt(square) / mean
        }
    }

    fun lrAt(step: Int, m: Manifest): Double = lrAt(step, m.optimizer, m.betaMean, m.betaSquare)

    /** The seed that the program is given. */
    fun seedAt(step: Int, queries: Int): Long = (seed shl 32) + (after + step).toLong() * queries

    /** Whether an evaluation follows a step. */
    fun evaluatesAfter(step: Int): Boolean = step + 1 == steps || (evalEvery > 0 && (step + 1) % evalEvery == 0)
}

/**
 * What a step was given, and what came of it.
 *
 * @property step its number, from 0.
 * @property loss mean of [losses], of the state before the step; NaN where it was not finite.
 * @property tokens rows times their length, of one execution.
 * @property seconds of the step, without evaluations.
 * @property losses of each example, or of each copy of the weights.
 * @property examples the batch, as places among the training examples.
 * @property backedOff the run had diverged: the step was thrown away, and the state is the best one so far.
 * @property dev of the state behind the step, where an evaluation was due.
 * @property before of the state before the first step.
 */
class StepRecord(
    val step: Int,
    val loss: Double,
    val lr: Double,
    val eps: Double,
    val seed: Long,
    val tokens: Long,
    val seconds: Double,
    val losses: FloatArray,
    val examples: List<Int>,
    val backedOff: Boolean,
    val dev: Evaluation? = null,
    val before: Evaluation? = null,
)

/** Their mean, added one by one in float64, as every driver does. */
internal fun meanOf(losses: FloatArray): Double {
    var sum = 0.0
    for (loss in losses) sum += loss
    return sum / losses.size
}
