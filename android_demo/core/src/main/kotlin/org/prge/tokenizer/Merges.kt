package org.prge.tokenizer

import org.prge.files.Odd

/** The pairs of tokens that BPE merges: each pair's rank, and the token that it becomes. Ranks count from 0. */
internal class Merges(private val vocabulary: Vocabulary) {
    private var keys = LongArray(1 shl 12) { EMPTY } // a hash table of pairs, at most half full
    private var ranks = IntArray(1 shl 12)
    private var made = IntArray(1 shl 11) // by rank
    private var count = 0

    /** Adds the pair of the next rank. */
    fun add(pair: List<String?>) {
        val (left, right) = pair.filterNotNull().takeIf { it.size == 2 && pair.size == 2 }
            ?: throw Odd("its model.merges hold $pair, which is no pair")
        val key = key(token(left), token(right))
        if (count == made.size) {
            made = made.copyOf(2 * count)
            grow()
        }
        made[count] = token(left + right)
        val slot = slot(key)
        keys[slot] = key
        ranks[slot] = count++
    }

    /** The rank of a pair; [Vocabulary.NONE] if it is not merged. */
    fun rank(left: Int, right: Int): Int {
        val slot = slot(key(left, right))
        return if (keys[slot] == EMPTY) Vocabulary.NONE else ranks[slot]
    }

    /** The token that the pair of a rank becomes. */
    fun made(rank: Int): Int = made[rank]

    private fun token(text: String): Int {
        val number = vocabulary.number(text)
        if (number == Vocabulary.NONE) throw Odd("its model.merges name \"$text\", which the vocabulary does not hold")
        return number
    }

    private fun key(left: Int, right: Int): Long = left.toLong() shl 32 or right.toLong()

    private fun slot(key: Long): Int {
        var slot = spread(key) and keys.size - 1
        while (keys[slot] != EMPTY && keys[slot] != key) slot = slot + 1 and keys.size - 1
        return slot
    }

    private fun grow() {
        val (oldKeys, oldRanks) = keys to ranks
        keys = LongArray(2 * oldKeys.size) { EMPTY }
        ranks = IntArray(keys.size)
        for (i in oldKeys.indices) {
            if (oldKeys[i] == EMPTY) continue
            val slot = slot(oldKeys[i])
            keys[slot] = oldKeys[i]
            ranks[slot] = oldRanks[i]
        }
    }

    private companion object {
        const val EMPTY = -1L
    }
}
