package org.prge.tokenizer

import java.util.PriorityQueue
import java.util.concurrent.ConcurrentHashMap
import org.prge.files.Odd

/**
 * Byte-pair encoding: a word begins as its characters, and the pair of the lowest rank is merged until none is left.
 *
 * @property unknown the token of characters that the vocabulary lacks; null drops them.
 * @property fuseUnknown whether several of them in a row become one token.
 * @property byteFallback whether their bytes become tokens like `<0xE2>` instead.
 * @property ignoreMerges whether a word that is a token becomes that, whatever its merges give.
 */
internal class Bpe(
    override val vocabulary: Vocabulary,
    private val merges: Merges,
    private val unknown: String?,
    private val fuseUnknown: Boolean,
    byteFallback: Boolean,
    private val ignoreMerges: Boolean,
) : Model {
    private val bytes = IntArray(256) {
        if (byteFallback) vocabulary.number("<0x%02X>".format(it)) else Vocabulary.NONE
    }
    private val known = ConcurrentHashMap<String, IntArray>()

    override fun tokenize(word: String, into: Numbers) {
        if (word.length > LONG) {
            into += tokens(word)
            return
        }
        val tokens = known[word] ?: tokens(word).also {
            if (known.size >= KNOWN) known.clear()
            known[word] = it
        }
        into += tokens
    }

    private fun tokens(word: String): IntArray {
        if (ignoreMerges) {
            val whole = vocabulary.number(word)
            if (whole != Vocabulary.NONE) return intArrayOf(whole)
        }
        return merged(characters(word))
    }

    /** The tokens of a word's characters. */
    private fun characters(word: String): IntArray {
        val found = Numbers()
        var waiting = Vocabulary.NONE // an unknown token that later characters may join
        var i = 0
        while (i < word.length) {
            val end = i + Character.charCount(word.codePointAt(i))
            val token = vocabulary.number(word, i, end)
            if (token != Vocabulary.NONE) {
                if (waiting != Vocabulary.NONE) found += waiting
                waiting = Vocabulary.NONE
                found += token
            } else if (!fallBack(word.substring(i, end), found) && unknown != null) {
                if (waiting != Vocabulary.NONE && !fuseUnknown) found += waiting
                waiting = vocabulary.number(unknown)
                if (waiting == Vocabulary.NONE) throw Odd("its unk_token \"$unknown\" is not in the vocabulary")
            }
            i = end
        }
        if (waiting != Vocabulary.NONE) found += waiting
        return found.toArray()
    }

    /** Appends the tokens of a character's bytes; false if one of them has no token. */
    private fun fallBack(character: String, into: Numbers): Boolean {
        val tokens = character.toByteArray().map { bytes[it.toInt() and 0xFF] }
        if (Vocabulary.NONE in tokens) return false
        for (token in tokens) into += token
        return true
    }

    /** Merges pairs of the symbols, which stay in a linked list. A queue has the pairs, so long words take n log n. */
    private fun merged(symbols: IntArray): IntArray {
        val next = IntArray(symbols.size) { it + 1 }
        val previous = IntArray(symbols.size) { it - 1 }
        val gone = BooleanArray(symbols.size)
        val queue = PriorityQueue<Long>() // rank, then the left symbol's place
        fun offer(left: Int) {
            if (left < 0 || next[left] == symbols.size) return
            val rank = merges.rank(symbols[left], symbols[next[left]])
            if (rank != Vocabulary.NONE) queue.add(rank.toLong() shl 32 or left.toLong())
        }
        for (i in symbols.indices) offer(i)
        while (true) {
            val pair = queue.poll() ?: break
            val rank = (pair ushr 32).toInt()
            val left = pair.toInt()
            if (gone[left] || next[left] == symbols.size) continue
            val right = next[left]
            // An earlier merge may have changed the pair. It stays valid if it still becomes the same token.
            val now = merges.rank(symbols[left], symbols[right])
            if (now == Vocabulary.NONE || merges.made(now) != merges.made(rank)) continue
            symbols[left] = merges.made(rank)
            gone[right] = true
            next[left] = next[right]
            if (next[right] < symbols.size) previous[next[right]] = left
            offer(previous[left])
            offer(left)
        }
        val left = Numbers()
        for (i in symbols.indices) if (!gone[i]) left += symbols[i]
        return left.toArray()
    }

    private companion object {
        const val KNOWN = 10_000 // words whose tokens are remembered
        const val LONG = 256 // longer words do not come again
    }
}
