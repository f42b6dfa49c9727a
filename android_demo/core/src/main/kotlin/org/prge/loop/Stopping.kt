package org.prge.loop

import org.prge.UserError

/**
 * Remembers which state of a run was the best, and throws away the steps of a run that has diverged.
 *
 * @property scale factor of the learning rate; halved whenever a step is thrown away.
 * @property first the first loss.
 * @property mean a running mean over about 10 steps.
 * @property best the lowest mean of ten losses, or the first loss.
 */
internal class Guard {
    var scale = 1.0
        private set
    var first = NONE
        private set
    var mean = NONE
        private set
    var best = NONE
        private set
    private val losses = ArrayList<Double>() // since the last ten were summed up

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
        // Diverged: the running mean is twice the first loss, and more than 1 nat above it. At the first step `next` is
        // not a number, and the comparison false.
        val next = mean + (loss - mean) / 10
        val backOff = !loss.isFinite() || !finite || next > first + maxOf(first, 1.0)
        return Decision(backOff, note(loss, backOff))
    }

    /** Counts a step that the journal has. Returns whether the state before it is the good one from then on. */
    fun note(loss: Double, backedOff: Boolean): Boolean {
        val fresh = first == NONE
        if (fresh) {
            first = loss
            mean = loss
            best = loss
        }
        if (backedOff) {
            scale /= 2
            mean = best
            losses.clear()
            return fresh
        }
        mean += (loss - mean) / 10
        losses += loss
        if (losses.size < 10) return fresh
        // Ten count, because one low loss may be luck of the batch in a state that is already lost.
        val ofTen = losses.fold(0.0) { sum, one -> sum + one } / 10
        val before = best
        losses.clear()
        best = if (ofTen < before) ofTen else before
        return ofTen < before
    }

    /** Whether smaller learning rates have not helped. */
    val givesUp: Boolean get() = scale <= 1.0 / 256

    private companion object {
        const val NONE = Double.POSITIVE_INFINITY
    }
}
