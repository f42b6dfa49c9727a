package org.prge.app

/**
 * A line in a picture of losses or accuracies over steps.
 *
 * @property points (step, value), in the order of the steps.
 */
class Curve(val points: List<Pair<Double, Double>>) {
    companion object {
        /** Losses as one sees them best: a running mean, since a batch's loss jumps. Those not finite are left out. */
        fun ofLosses(losses: List<Double>, window: Int = 10): Curve {
            val points = ArrayList<Pair<Double, Double>>()
            var mean = Double.NaN
            for ((step, loss) in losses.withIndex()) {
                if (!loss.isFinite()) continue
                mean = if (mean.isNaN()) loss else mean + (loss - mean) / minOf(window, points.size + 1)
                points += step + 1.0 to mean
            }
            return Curve(points)
        }

        fun ofAccuracies(course: Course) = Curve(
            course.checks.mapNotNull { (step, found) -> found.accuracy?.let { step.toDouble() to it } },
        )
    }
}

/**
 * Where values are in a picture: steps from 0 to [steps] across its width, values between [low] and [high] up its height.
 */
class Scale(val steps: Double, val low: Double, val high: Double) {
    /** Shares of width and height, from the upper left corner. */
    fun place(point: Pair<Double, Double>): Pair<Float, Float> =
        (point.first / steps).toFloat() to (1 - (point.second - low) / (high - low)).toFloat().coerceIn(0f, 1f)

    companion object {
        /** The values of all [curves], and a little room; at least [least] high. */
        fun around(steps: Int, curves: List<Curve>, least: Double): Scale {
            val values = curves.flatMap { curve -> curve.points.map { it.second } }
            val low = values.minOrNull() ?: 0.0
            val high = values.maxOrNull() ?: least
            val room = maxOf(least - (high - low), 0.1 * (high - low)) / 2
            return Scale(maxOf(1, steps).toDouble(), low - room, high + room)
        }
    }
}
