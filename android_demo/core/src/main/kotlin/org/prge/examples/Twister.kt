package org.prge.examples

/** Python's random numbers: the Mersenne Twister MT19937. So a file is divided as Python divides it. */
internal class Twister(seed: Int) {
    private val state = IntArray(SIZE)
    private var at = SIZE

    init {
        state[0] = 19650218
        for (i in 1 until SIZE) state[i] = 1812433253 * (state[i - 1] xor (state[i - 1] ushr 30)) + i
        fun mixed(i: Int) = state[i - 1] xor (state[i - 1] ushr 30)
        var i = 1
        fun step(value: Int) {
            state[i] = value
            if (++i == SIZE) {
                state[0] = state[SIZE - 1]
                i = 1
            }
        }
        repeat(SIZE) { step((state[i] xor mixed(i) * 1664525) + seed) }
        repeat(SIZE - 1) { step((state[i] xor mixed(i) * 1566083941) - i) }
        state[0] = Int.MIN_VALUE
    }

    /** Orders a list at random. */
    fun <T> shuffle(items: MutableList<T>) {
        for (last in items.size - 1 downTo 1) {
            val other = below(last + 1)
            items[last] = items.set(other, items[last])
        }
    }

    /** A number from 0 to below [bound]. */
    private fun below(bound: Int): Int {
        val bits = 32 - bound.countLeadingZeroBits()
        while (true) {
            val number = next() ushr (32 - bits)
            if (number < bound) return number
        }
    }

    private fun next(): Int {
        if (at == SIZE) {
            for (i in 0 until SIZE) {
                val mixed = (state[i] and Int.MIN_VALUE) or (state[(i + 1) % SIZE] and Int.MAX_VALUE)
                val twist = if (mixed and 1 == 0) 0 else 0x9908b0df.toInt()
                state[i] = state[(i + SHIFT) % SIZE] xor (mixed ushr 1) xor twist
            }
            at = 0
        }
        var number = state[at++]
        number = number xor (number ushr 11)
        number = number xor (number shl 7 and 0x9d2c5680.toInt())
        number = number xor (number shl 15 and 0xefc60000.toInt())
        return number xor (number ushr 18)
    }

    private companion object {
        const val SIZE = 624
        const val SHIFT = 397
    }
}
