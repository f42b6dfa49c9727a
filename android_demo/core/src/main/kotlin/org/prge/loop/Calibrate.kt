package org.prge.loop

import kotlin.math.pow
import kotlin.math.sqrt
import org.prge.UserError
import org.prge.data.Batches
import org.prge.data.Example
import org.prge.program.StepProgram
import org.prge.program.finite

// Seeds of the search: the last there are, so that no run shares them. Half of its batches give the direction.
private const val SEED = 0x7FFFFFFFL
private const val DIRECTIONS = (SEED shl 32) + (1L shl 31)
private const val HALF = 4

// Share of the way to the least loss that the first step goes, and which ways are tried; calibrate.py says why.
private const val ESTIMATE = 0.5
private const val TEXT = 0.125
private const val CLASSES = 1.0
private const val WAYS = 16
private const val CLASSES_WAYS = 2
private const val FEW_CLASSES = 10
private const val START = 3

/** A loss measured in int8 may rise by so much from rounding alone. */
private const val ROUNDING = 1e-2

/**
 * Measures a learning rate for the first step: a share of the way to the least loss along the optimizer's first
 * direction.
 *
 * @param start f32[state_size], where the run begins.
 * @param eps the run's.
 * @throws UserError an estimate is not finite.
 */
internal fun proposeLr(program: StepProgram, examples: List<Example>, start: FloatArray, eps: Double): Double {
    val m = program.manifest
    val size = m.parameters
    val state = start.copyOf(size).copyOf(start.size)
    val batches = Batches(examples, m.batch, SEED)
    fun batch(i: Int) = batches.at(i.toLong()).map { examples[it] }
    val direction = DoubleArray(size)
    val square = DoubleArray(size)
    for (i in 0 until HALF) {
        val stepped = program.step(batch(i), state, DIRECTIONS + i.toLong() * m.queries, 1.0, eps).state
        if (!finite(stepped)) throw UserError("the estimate is not finite at eps $eps")
        for (k in 0 until size) {
            // Momentum and Adam keep (1 - beta) times the gradient. A step of SGD with lr 1 is the gradient.
            val own = (1 - m.betaMean).toFloat()
            val g = (if (m.optimizer == "sgd") state[k] - stepped[k] else stepped[size + k] / own).toDouble()
            direction[k] += g / HALF
            square[k] += g * g / HALF
        }
    }
    if (m.optimizer == "adam") for (k in 0 until size) direction[k] /= sqrt(square[k]) + 1e-12
    // Of choices the right one alone: its loss is the example's, and the others would take as long each.
    val held = (HALF until 2 * HALF).flatMap { batch(it) }.map { it.copy(candidates = emptyList()) }
    val classes = m.labelWords && !m.estimates
    val first = if (classes && m.labels.size > FEW_CLASSES) m.lr / 2 else m.lr / 8
    val ways = List(if (classes) CLASSES_WAYS else WAYS) { first * 2.0.pow(it) }
    val way = searchLr(ways, minOf(START, ways.lastIndex)) { way ->
        val moved = state.copyOf()
        for (k in 0 until size) moved[k] = (moved[k] - way * direction[k]).toFloat()
        evaluate(program, moved, held).loss
    }
    return way * if (m.estimates) ESTIMATE else if (classes) CLASSES else TEXT
}

/**
 * The way to the least loss along a direction. The search goes down from one way until the loss rises, and up from it if
 * no other was better.
 *
 * @param ways each twice the one before.
 * @param start index of the first to try.
 */
internal fun searchLr(ways: List<Double>, start: Int, lossAt: (Double) -> Double): Double {
    val losses = sortedMapOf<Int, Double>()
    fun lowest() = losses.minBy { it.value }.key
    fun falls(i: Int): Boolean {
        val loss = lossAt(ways[i])
        losses[i] = if (loss.isNaN()) Double.POSITIVE_INFINITY else loss
        return losses.getValue(i) <= losses.getValue(lowest()) + ROUNDING
    }
    (start downTo 0).all(::falls)
    if (lowest() == start) (start + 1..ways.lastIndex).all(::falls)
    // The bottom of a parabola through the least loss and its neighbours, in octaves from the least.
    val best = lowest()
    val left = losses[best - 1] ?: return ways[best]
    val right = losses[best + 1] ?: return ways[best]
    val bend = left - 2 * losses.getValue(best) + right
    val octaves = if (bend.isFinite() && bend > 0) 0.5 * (left - right) / bend else 0.0
    return ways[best] * 2.0.pow(octaves)
}
