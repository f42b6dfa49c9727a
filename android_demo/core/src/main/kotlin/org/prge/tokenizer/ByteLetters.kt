package org.prge.tokenizer

// Byte-level tokenizers write every byte of a text as a printable letter: most of Latin-1 as itself, and the others as
// the letters from U+0100 on.

private val LETTERS = CharArray(256).also { letters ->
    var next = 256
    for (byte in 0..255) {
        val printable = byte in 0x21..0x7E || byte in 0xA1..0xAC || byte in 0xAE..0xFF
        letters[byte] = (if (printable) byte else next++).toChar()
    }
}

private val BYTES = IntArray(LETTERS.maxOf { it.code } + 1) { -1 }.also { bytes ->
    LETTERS.forEachIndexed { byte, letter -> bytes[letter.code] = byte }
}

/** The letters of a text's bytes in UTF-8. */
internal fun toLetters(text: String): String {
    val bytes = text.toByteArray()
    return String(CharArray(bytes.size) { LETTERS[bytes[it].toInt() and 0xFF] })
}

/** The bytes of a token: those of its letters, or its own in UTF-8 if one of them stands for no byte. */
internal fun toBytes(token: String): ByteArray {
    val bytes = ByteArray(token.length)
    for ((i, letter) in token.withIndex()) {
        val byte = BYTES.getOrElse(letter.code) { -1 }
        if (byte < 0) return token.toByteArray()
        bytes[i] = byte.toByte()
    }
    return bytes
}

/**
 * Bytes as text. Each run of bytes that begins a character and breaks off becomes one U+FFFD, and so does every other
 * byte that fits nowhere. Java's own decoder counts such runs differently.
 */
internal fun toText(bytes: ByteArray): String {
    val text = StringBuilder(bytes.size)
    var at = 0
    while (at < bytes.size) {
        val first = bytes[at].toInt() and 0xFF
        val more = when (first) { // bytes of the character
            in 0..0x7F -> 0
            in 0xC2..0xDF -> 1
            in 0xE0..0xEF -> 2
            in 0xF0..0xF4 -> 3
            else -> -1
        }
        var character = if (more > 0) first and (0x3F shr more) else first
        var taken = 1
        while (taken <= more && at + taken < bytes.size) {
            val next = bytes[at + taken].toInt() and 0xFF
            if (next !in (if (taken == 1) second(first) else 0x80..0xBF)) break
            character = character shl 6 or (next and 0x3F)
            taken++
        }
        text.appendCodePoint(if (taken == more + 1) character else 0xFFFD)
        at += taken
    }
    return text.toString()
}

/** What may follow a character's first byte: nothing that is too long for its value, no surrogate, none too large. */
private fun second(first: Int): IntRange = when (first) {
    0xE0 -> 0xA0..0xBF
    0xED -> 0x80..0x9F
    0xF0 -> 0x90..0xBF
    0xF4 -> 0x80..0x8F
    else -> 0x80..0xBF
}
