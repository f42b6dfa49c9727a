package org.prge.data

import java.io.File
import org.prge.UserError
import org.prge.files.Odd
import org.prge.files.bytesOf
import org.prge.files.checked
import org.prge.files.crc32
import org.prge.files.parseJson
import org.prge.files.readChecked
import org.prge.files.replace
import org.prge.files.vector
import org.prge.files.whole
import org.prge.program.Manifest

private const val WHAT = "a file of `prge pack`"

/**
 * A packed file: the examples of one program.
 *
 * @property train what it learns, one or more.
 * @property dev what it is evaluated on; may be empty.
 * @property dropped how many training examples were left out because they are in [dev].
 */
class Examples internal constructor(
    val file: File,
    val train: List<Example>,
    val dev: List<Example>,
    val dropped: Int,
) {
    private val words = wordsOf(train + dev)

    /** CRC-32 of all examples, in hex: equal examples have the same. */
    val crc: String = crc32(bytesOf(words))

    /** All rows that are ever executed. */
    val rows: List<Example> get() = (train + dev).flatMap { it.rows }

    internal fun write(manifest: Manifest) {
        val metadata = mapOf(
            "packed" to "1", "tokenizer_sha256" to manifest.tokenizerSha256, "form" to form(manifest),
            "train" to "${train.size}", "dev" to "${dev.size}", "dropped" to "$dropped",
        )
        replace(file, checked(metadata, mapOf("words" to vector(words))))
    }

    companion object {
        /**
         * Reads a packed file.
         *
         * @throws UserError it cannot be read, is damaged, or was packed for another program.
         */
        fun read(file: File, manifest: Manifest): Examples {
            val held = readChecked(file, WHAT, "I32")
            val words = held.vectors["words"]?.ints()
            val version = held.metadata["packed"]
            if (version == null || words == null) throw UserError("$file is not $WHAT")
            if (version != "1") throw UserError("$file has version $version, not 1; pack the data again")
            if (held.text("tokenizer_sha256") != manifest.tokenizerSha256)
                throw UserError("$file was packed with another tokenizer than the program's; pack the data again")
            if (held.text("form") != form(manifest))
                throw UserError(
                    "$file was packed for a program with another template, other labels or another bound of tokens; " +
                        "pack the data again",
                )
            try {
                val counts = listOf("train", "dev", "dropped").map { parseJson(held.text(it)).whole().toInt() }
                val (train, dev, dropped) = counts
                val reader = Reader(words, manifest)
                val found = Examples(file, reader.examples(train), reader.examples(dev), dropped)
                if (reader.at != words.size || found.train.isEmpty()) throw Odd("")
                return found
            } catch (e: Odd) {
                throw UserError("$file is damaged: what it holds are no examples of this program")
            }
        }
    }
}

/** The words of each example: label, targets, number of tokens and of candidates, tokens; its candidates likewise. */
private fun wordsOf(examples: List<Example>): IntArray {
    fun size(e: Example): Int = 4 + e.tokens.size + e.candidates.sumOf(::size)
    val words = IntArray(examples.sumOf(::size))
    var at = 0
    fun put(e: Example) {
        for (number in intArrayOf(e.label, e.targets, e.tokens.size, e.candidates.size)) words[at++] = number
        e.tokens.copyInto(words, at)
        at += e.tokens.size
        e.candidates.forEach(::put)
    }
    examples.forEach(::put)
    return words
}

/** CRC-32 of all that decides, beside the tokenizer, which examples a text becomes. */
private fun form(m: Manifest): String {
    val texts = listOf(m.objective, m.template, m.target, m.labelColumn, m.choicesColumn, m.chatTemplate, m.answerAt)
    val numbers = listOf(m.maskToken, m.maxTokens, m.maxTargets)
    val parts = texts + numbers + m.labels.map { it.name } + m.stopTokens
    return crc32(*parts.map { "$it\u0000".toByteArray() }.toTypedArray())
}

private class Reader(private val words: IntArray, private val m: Manifest) {
    var at = 0

    fun examples(count: Int) = ArrayList<Example>().apply { repeat(count) { add(example(candidate = false)) } }

    private fun next(range: IntRange = Int.MIN_VALUE..Int.MAX_VALUE): Int {
        if (at == words.size || words[at] !in range) throw Odd("")
        return words[at++]
    }

    private fun example(candidate: Boolean): Example {
        val label = next()
        val targets = next()
        val count = next(1..m.maxTokens)
        val choices = next(0..Int.MAX_VALUE)
        if ((choices > 0) != (m.choices && !candidate)) throw Odd("")
        val tokens = IntArray(count) { next(0 until m.vocabulary) }
        val once = m.answerAt != "mask" || tokens.count { it == m.maskToken } == 1
        val fits = if (m.labelWords) once && targets == 0 && label in m.labels.indices
        else targets in 1..minOf(m.maxTargets, count - 1) && if (choices > 0) label in 0 until choices else label == -1
        if (!fits) throw Odd("")
        val candidates = ArrayList<Example>()
        repeat(choices) { candidates.add(example(candidate = true)) }
        return Example(tokens, label, targets, candidates)
    }
}
