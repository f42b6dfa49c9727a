package org.prge.program

import java.io.File
import kotlin.math.exp
import kotlin.random.Random
import org.prge.UserError

/** The file in a program's folder that continues text; `prge export --generate` writes it. */
const val GENERATE = "generate.pte"

/**
 * How text is continued.
 *
 * @property most tokens that are written.
 * @property temperature divides the logits before a random draw; 0 takes the most likely token.
 * @property topP the draw is among the fewest most likely tokens whose probabilities add up to this.
 * @property seed of the draws. Other drivers draw otherwise.
 */
data class Writing(val most: Int = 128, val temperature: Double = 0.0, val topP: Double = 1.0, val seed: Long = 0) {
    internal fun check() {
        fun refuse(name: String, value: Any): Nothing = throw UserError("--$name $value is no number that it takes")
        if (most < 1) refuse("max-new-tokens", most)
        if (!(temperature >= 0 && temperature.isFinite())) refuse("temperature", temperature)
        if (topP !in 0.0..1.0) refuse("top-p", topP)
    }
}

/**
 * Continues text, token by token. The key-value cache is kept here.
 *
 * @param path the `.pte`, or the program's folder.
 * @throws UserError it is missing, damaged, or none of prge's.
 */
class GenerateProgram(path: File, runtime: Runtime) :
    Base(if (path.isDirectory) File(path, GENERATE) else path, "generate", runtime) {
    private val shape = CacheShape(manifest.layers, manifest.kvHeads, manifest.head, manifest.maxTokens)

    /** Called before every execution. It may throw to stop. */
    var beforeEach: () -> Unit = {}

    /**
     * The tokens that follow a prompt, up to one that ends a text, which is left out, or to the context's end.
     *
     * @param prompt at least one token.
     * @param state f32[state_size] of the step that was exported with this program.
     * @throws UserError the prompt is empty, or leaves no room in the context; or the runtime fails.
     */
    fun generate(prompt: IntArray, state: FloatArray, writing: Writing): Sequence<Int> = sequence {
        val m = manifest
        writing.check()
        if (prompt.isEmpty()) throw UserError("the prompt is empty; give some text to continue")
        if (prompt.size >= m.maxTokens)
            throw UserError(
                "the prompt has ${prompt.size} tokens; $file holds ${m.maxTokens}, the answer included: shorten the " +
                    "prompt, or export with a larger --context",
            )
        val cache = Cache(shape)
        val random = Random(writing.seed)
        var unread = prompt
        repeat(minOf(writing.most, m.maxTokens - prompt.size)) {
            val token = choose(read(state, unread, cache), writing, random)
            if (token in m.stopTokens) return@sequence
            yield(token)
            unread = intArrayOf(token)
        }
    }

    /** Appends tokens to the cache, `chunk` or fewer in an execution; the logits after the last one, f32[V]. */
    private fun read(state: FloatArray, tokens: IntArray, cache: Cache): FloatArray {
        val m = manifest
        val params = Input.Floats(state.copyOf(m.parameters), m.parameters.toLong())
        var logits = FloatArray(0)
        for (from in tokens.indices step m.chunk) {
            beforeEach()
            val count = minOf(m.chunk, tokens.size - from)
            val row = Input.Longs(LongArray(count) { tokens[from + it].toLong() }, 1, count.toLong())
            val outputs = forward(listOf(params, row, Input.Longs(longArrayOf(cache.used.toLong()), 1)) + cache.inputs())
            if (outputs.map { it.size } != listOf(m.vocabulary) + List(2 * shape.layers) { count * shape.each })
                throw UserError("$file: its outputs are not of the size that its manifest says")
            logits = outputs[0]
            cache.append(outputs.drop(1), count)
        }
        return logits
    }
}

/** Sizes of a cache: of every layer keys f32[kv, d, C] and values f32[kv, C, d], with C up to [bound]. */
private class CacheShape(val layers: Int, val kv: Int, val d: Int, val bound: Int) {
    /** Numbers of one position in a layer's keys, or in its values. */
    val each get() = kv * d
}

/** Keys and values of the tokens so far. It begins small and doubles when it is full: attention reads all of it. */
private class Cache(private val shape: CacheShape) {
    private var size = minOf(FIRST, shape.bound)
    private val keys = Array(shape.layers) { FloatArray(shape.each * size) }
    private val values = Array(shape.layers) { FloatArray(shape.each * size) }

    /** How many positions hold a token. */
    var used = 0
        private set

    fun inputs(): List<Input> {
        val (kv, d, c) = listOf(shape.kv, shape.d, size).map { it.toLong() }
        return keys.map { Input.Floats(it, kv, d, c) } + values.map { Input.Floats(it, kv, c, d) }
    }

    /** Adds positions: all layers' keys f32[kv, d, count], then all layers' values f32[kv, count, d]. */
    fun append(new: List<FloatArray>, count: Int) {
        val before = size
        if (used + count > size) size = minOf(maxOf(used + count, 2 * size), shape.bound)
        for (i in 0 until shape.layers) {
            keys[i] = joined(keys[i], before, new[i], count, 1)
            values[i] = joined(values[i], before, new[shape.layers + i], count, shape.d)
        }
        used += count
    }

    /** Rows of [before] positions as rows of [size], with new positions behind those in use; [width] numbers each. */
    private fun joined(old: FloatArray, before: Int, new: FloatArray, count: Int, width: Int): FloatArray {
        val rows = shape.each / width
        val all = if (size == before) old else FloatArray(shape.each * size)
        for (row in 0 until rows) {
            if (all !== old) old.copyInto(all, row * size * width, row * before * width, (row * before + used) * width)
            new.copyInto(all, (row * size + used) * width, row * count * width, (row + 1) * count * width)
        }
        return all
    }

    private companion object {
        const val FIRST = 64
    }
}

/** Chooses a token by its logits f32[V]: the most likely one, or a random one. */
internal fun choose(logits: FloatArray, writing: Writing, random: Random): Int {
    val best = logits.indices.maxBy { logits[it] }
    if (writing.temperature < 1e-6) return best // the quotient could overflow, and the draw would be certain anyway
    val weights = DoubleArray(logits.size) { exp((logits[it].toDouble() - logits[best]) / writing.temperature) }
    val all = weights.sum()
    val order = weights.indices.sortedByDescending { weights[it] }
    var before = 0.0
    val nucleus = order.takeWhile { (before < writing.topP || it == order[0]).also { _ -> before += weights[it] / all } }
    var left = random.nextDouble() * nucleus.sumOf { weights[it] }
    return nucleus.firstOrNull { left -= weights[it]; left < 0 } ?: nucleus.last()
}
