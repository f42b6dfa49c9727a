package org.prge.loop

/** A dev set of a hundred texts tells two accuracies apart by some points only; the later state has learned more. */
private const val AS_GOOD = 0.02

/**
 * Remembers which state of a run to keep: the last one whose accuracy is within two points of the highest so far;
 * without a choice to make the one of the lowest loss.
 */
class Best {
    /** Of the run, behind which it was evaluated; null before the first evaluation. */
    var steps: Int? = null
        private set

    /** Its evaluation. */
    var evaluation: Evaluation? = null
        private set

    /** Evaluations since the one of the highest accuracy, and of these of the lowest loss. */
    var waited = 0
        private set
    private var accuracy = 0.0
    private var loss = Double.POSITIVE_INFINITY

    /**
     * Counts an evaluation. Returns whether its state is the one to keep from now on. A loss that is not finite counts
     * only as the first.
     */
    fun note(steps: Int, found: Evaluation): Boolean {
        val finite = found.loss.isFinite()
        val right = if (finite) found.accuracy ?: 0.0 else 0.0
        val lost = if (finite) found.loss else Double.POSITIVE_INFINITY
        waited++
        if (this.steps == null || right > accuracy || (right == accuracy && lost < loss)) {
            waited = 0
            accuracy = right
            loss = lost
        } else if (found.accuracy == null || !finite || right < accuracy - AS_GOOD) {
            return false
        }
        this.steps = steps
        evaluation = found
        return true
    }
}
