package org.prge.tokenizer

import org.prge.files.Odd

/**
 * Tokens by their text and by their number.
 *
 * All texts lie in one array, without an object for each. So 260,000 tokens take 10 MB, and not 40.
 */
internal class Vocabulary {
    /** How many tokens there are. */
    var size = 0
        private set

    private var characters = CharArray(1 shl 14)
    private var starts = IntArray(1 shl 11) // the entry e is characters[starts[e]] until characters[starts[e + 1]]
    private var numbers = IntArray(1 shl 11) // of each entry
    private var entries = IntArray(1 shl 11) { NONE } // of each number
    private var slots = IntArray(1 shl 12) { NONE } // a hash table of entries, at most half full

    /** Adds a token. If the text is known, it gets the new number. */
    fun add(token: String, number: Int) {
        if (number !in 0 until MOST) throw Odd("the token \"$token\" has the number $number, not one below $MOST")
        var slot = slot(token, 0, token.length)
        if (slots[slot] == NONE) {
            if (2 * (size + 1) > slots.size) {
                grow()
                slot = slot(token, 0, token.length)
            }
            slots[slot] = append(token)
        }
        numbers[slots[slot]] = number
        if (number >= entries.size) {
            val known = entries.size
            entries = entries.copyOf(maxOf(2 * known, number + 1)).apply { fill(NONE, known) }
        }
        entries[number] = slots[slot]
    }

    /** The number of the token that `text` holds from one index until another; [NONE] if it is no token. */
    fun number(text: CharSequence, from: Int = 0, until: Int = text.length): Int {
        val entry = slots[slot(text, from, until)]
        return if (entry == NONE) NONE else numbers[entry]
    }

    /** The text of a token; null if no token has the number. */
    fun text(number: Int): String? {
        val entry = entries.getOrElse(number) { NONE }
        return if (entry == NONE) null else String(characters, starts[entry], starts[entry + 1] - starts[entry])
    }

    private fun append(token: String): Int {
        val start = starts[size]
        if (start + token.length > characters.size) {
            characters = characters.copyOf(maxOf(2 * characters.size, start + token.length))
        }
        token.toCharArray(characters, start)
        if (size + 2 > starts.size) {
            starts = starts.copyOf(2 * starts.size)
            numbers = numbers.copyOf(2 * numbers.size)
        }
        starts[size + 1] = start + token.length
        return size++
    }

    private fun grow() {
        slots = IntArray(2 * slots.size) { NONE }
        for (entry in 0 until size) {
            val held = String(characters, starts[entry], starts[entry + 1] - starts[entry])
            slots[slot(held, 0, held.length)] = entry
        }
    }

    /** The slot where the text is, or where it belongs. */
    private fun slot(text: CharSequence, from: Int, until: Int): Int {
        var hash = 0
        for (i in from until until) hash = 31 * hash + text[i].code
        var slot = spread(hash.toLong()) and slots.size - 1
        while (slots[slot] != NONE && !holds(slots[slot], text, from, until)) slot = slot + 1 and slots.size - 1
        return slot
    }

    private fun holds(entry: Int, text: CharSequence, from: Int, until: Int): Boolean {
        val start = starts[entry]
        if (starts[entry + 1] - start != until - from) return false
        for (i in from until until) if (characters[start + i - from] != text[i]) return false
        return true
    }

    companion object {
        const val NONE = -1
        private const val MOST = 1 shl 24
    }
}

/** Mixes a number's bits, so that the lowest ones depend on all. */
internal fun spread(number: Long): Int {
    val mixed = number * -0x61c8864680b583ebL
    return (mixed xor (mixed ushr 32)).toInt()
}

/** A list of numbers that grows. */
internal class Numbers {
    private var held = IntArray(16)
    var size = 0
        private set

    operator fun plusAssign(number: Int) {
        if (size == held.size) held = held.copyOf(2 * size)
        held[size++] = number
    }

    operator fun plusAssign(numbers: IntArray) {
        for (number in numbers) this += number
    }

    fun toArray() = held.copyOf(size)
}
