package org.prge.data

import org.prge.program.Manifest

/**
 * The batches of a run. The examples of a batch have like lengths, and the classes in the data's own proportion.
 *
 * @param examples of the training set.
 * @param size B, the examples of a batch.
 * @param seed the run's.
 */
class Batches(private val examples: List<Example>, private val size: Int, private val seed: Long) {
    private var epoch = -1L
    private var groups = emptyList<List<Int>>()

    /** The batch of a step, counted from 0: places among the examples. */
    fun at(number: Long): List<Int> {
        val each = (examples.size + size - 1) / size
        if (number / each != epoch) {
            epoch = number / each
            groups = shuffled()
        }
        return groups[(number % each).toInt()]
    }

    /** Every class is shuffled, then sorted by length within windows of about 8 batches. Classes are spread evenly. */
    private fun shuffled(): List<List<Int>> {
        val windows = maxOf(1, examples.size / (8 * size)).toLong()
        val shares = examples.indices.groupBy { examples[it].label }.values.flatMap { members ->
            val n = members.size
            val ranked = members.sortedBy { scramble(seed, epoch, 0, it.toLong()) }.withIndex()
            ranked.sortedWith(compareBy({ it.index * windows / n }, { examples[it.value].tokens.size }))
                .mapIndexed { rank, (_, place) -> (rank + 0.5) / n to place }
        }
        val merged = shares.sortedBy { it.first }.map { it.second }.toMutableList()
        while (merged.size % size != 0) merged.add(merged[merged.size % examples.size])
        val cut = merged.chunked(size).withIndex()
        return cut.sortedBy { scramble(seed, epoch, 1, it.index.toLong()) }.map { it.value }
    }
}

/** 64 bits that look random: the finalizer of SplitMix64 over one number at a time. */
private fun scramble(vararg numbers: Long): ULong {
    var state = 0uL
    for (number in numbers) {
        state = (state xor number.toULong()) + 0x9E3779B97F4A7C15uL
        state = (state xor (state shr 30)) * 0xBF58476D1CE4E5B9uL
        state = (state xor (state shr 27)) * 0x94D049BB133111EBuL
        state = state xor (state shr 31)
    }
    return state
}

/**
 * Rows as a program takes them, right-padded; and the objective's targets.
 *
 * @property length T.
 * @property tokens i64[R, T].
 * @property position i64[R, 1] with label words, else i64[R, M].
 * @property target the label i64[R], or the target tokens i64[R, M].
 * @property weight f32[R, M]; zeros with label words, which take none.
 */
class Inputs(
    val length: Int,
    val tokens: LongArray,
    val position: LongArray,
    val target: LongArray,
    val weight: FloatArray,
)

fun collate(rows: List<Example>, m: Manifest): Inputs {
    val length = maxOf(m.minTokens, rows.maxOf { it.tokens.size })
    val width = if (m.labelWords) 1 else m.maxTargets
    val tokens = LongArray(rows.size * length) { m.padToken.toLong() }
    val position = LongArray(rows.size * width)
    val target = LongArray(rows.size * width)
    val weight = FloatArray(rows.size * width)
    for ((row, e) in rows.withIndex()) {
        val end = e.tokens.size
        val at = row * width
        for (i in 0 until end) tokens[row * length + i] = e.tokens[i].toLong()
        if (m.labelWords) {
            position[at] = when (m.answerAt) {
                "mask" -> e.tokens.indexOf(m.maskToken)
                "first" -> 0
                else -> end - 1
            }.toLong()
            target[at] = maxOf(e.label, 0).toLong()
        }
        for (i in 0 until e.targets) {
            position[at + i] = (end - e.targets - 1 + i).toLong()
            target[at + i] = e.tokens[end - e.targets + i].toLong()
            weight[at + i] = (1.0 / e.targets).toFloat()
        }
    }
    return Inputs(length, tokens, position, target, weight)
}
