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
