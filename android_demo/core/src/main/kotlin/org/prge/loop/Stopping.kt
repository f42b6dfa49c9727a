package org.prge.loop

import kotlin.math.ln
import org.prge.UserError

/**
 * Remembers which state of a run was the best, and throws away the steps of a run that has diverged.
 *
 * @param batch examples in a step. A small one's loss says little.
 * @param classes with label words; 0 where the answer is text.
 * @property scale factor of the learning rate; halved whenever a step is thrown away.
 * @property first the first loss, but at least that of guessing.
 * @property mean a running mean over about [span] steps.
 * @property best the lowest mean of [span] losses, or [first].
 */
internal class Guard(batch: Int, classes: Int) {
    private val span = maxOf(10, (40 + batch - 1) / batch) // ten steps, or as many as have 40 examples
    private val guessing = ln(maxOf(1, classes).toDouble())
    var scale = 1.0
        private set
    var first = NONE
        private set
    var mean = NONE
        private set
    var best = NONE
        private set
    private val losses = ArrayList<Double>() // since the last [span] were summed up

    /**
     * @property backOff the new state is thrown away, and the run goes back to the good one.
     * @property good the state before the step is the good one from now on.
     */
    data class Decision(val backOff: Boolean, val good: Boolean)

    /**
     * Decides what follows from a step.
     *
     * @param loss mean over the batch, of the state before the step.
     * @param finite whether all numbers of the new state are finite.
     * @throws UserError the run's first loss is not finite, so that there is no good state.
     */
    fun watch(loss: Double, finite: Boolean): Decision {
        if (first == NONE && !loss.isFinite())
            throw UserError("the first loss is not finite; is --eps far from what `prge calibrate` proposes?")
        // Diverged: the running mean is twice [first], and more than 1 nat above it. At the first step `next` is not a
        // number, and the comparison false.
        val next = mean + (loss - mean) / span
        val backOff = !loss.isFinite() || !finite || next > first + maxOf(first, 1.0)
        return Decision(backOff, note(loss, backOff))
    }

    /** Counts a step that the journal has. Returns whether the state before it is the good one from then on. */
    fun note(loss: Double, backedOff: Boolean): Boolean {
        val fresh = first == NONE
        if (fresh) {
            mean = loss
            first = maxOf(loss, guessing)
            best = first
        }
        if (backedOff) {
            scale /= 2
            mean = best
            losses.clear()
            return fresh
        }
        mean += (loss - mean) / span
        losses += loss
        if (losses.size < span) return fresh
        // Several count, because one low loss may be luck of the batch in a state that is already lost.
        val average = losses.fold(0.0) { sum, one -> sum + one } / span
        val before = best
        losses.clear()
        best = minOf(average, before)
        return average < before
    }

    /** Whether smaller learning rates have not helped. */
    val givesUp: Boolean get() = scale <= 1.0 / 256

    private companion object {
        const val NONE = Double.POSITIVE_INFINITY
    }
}
