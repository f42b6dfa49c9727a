package org.prge.loop

/**
 * Remembers which evaluation of a run was the best: the highest accuracy, and of these the lowest loss; without a
 * choice the lowest loss.
 */
class Best {
    /** Of the run, behind which the best one was made; null before the first evaluation. */
    var steps: Int? = null
        private set

    /** The best one. */
    var evaluation: Evaluation? = null
        private set

    /** Evaluations since then. */
    var waited = 0
        private set
    private var accuracy = 0.0
    private var loss = Double.POSITIVE_INFINITY

    /** Counts an evaluation. Returns whether it is the best so far; one whose loss is not finite is never better. */
    fun note(steps: Int, found: Evaluation): Boolean {
        val right = if (found.loss.isFinite()) found.accuracy ?: 0.0 else 0.0
        val lost = if (found.loss.isFinite()) found.loss else Double.POSITIVE_INFINITY
        waited++
        if (this.steps != null && (right < accuracy || (right == accuracy && lost >= loss))) return false
        this.steps = steps
        waited = 0
        evaluation = found
        accuracy = right
        loss = lost
        return true
    }
}
