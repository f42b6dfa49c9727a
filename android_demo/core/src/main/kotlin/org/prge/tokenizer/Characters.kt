package org.prge.tokenizer

// Classes of characters as the tokenizers library has them. Java's own differ: \s and \w are ASCII's on a desktop, and
// Unicode's on Android.

/** Unicode's White_Space, as the inside of a character class. */
internal const val SPACES = "\\t-\\r \\u0085\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000"

/** What Oniguruma's `\w` holds, as the inside of a character class: among others Latin-1's small numbers. */
internal const val WORDS = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\u00B2\\u00B3\\u00B9\\u00BC-\\u00BE\\u24B6-\\u24E9" +
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

internal fun isSpace(character: Int): Boolean = when (character) {
    in 0x09..0x0D, 0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}

internal fun isNumeric(character: Int): Boolean = when (Character.getType(character).toByte()) {
    Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER -> true
    else -> false
}

internal fun isPunctuation(character: Int): Boolean = when (Character.getType(character).toByte()) {
    Character.CONNECTOR_PUNCTUATION, Character.DASH_PUNCTUATION, Character.START_PUNCTUATION,
    Character.END_PUNCTUATION, Character.INITIAL_QUOTE_PUNCTUATION, Character.FINAL_QUOTE_PUNCTUATION,
    Character.OTHER_PUNCTUATION,
    -> true
    // Signs such as $, + and ~ are none of Unicode's punctuation, but count with ASCII's.
    else -> character in 0x21..0x2F || character in 0x3A..0x40 || character in 0x5B..0x60 || character in 0x7B..0x7E
}

internal fun isNonspacingMark(character: Int): Boolean =
    Character.getType(character).toByte() == Character.NON_SPACING_MARK

internal fun isMark(character: Int): Boolean = when (Character.getType(character).toByte()) {
    Character.NON_SPACING_MARK, Character.COMBINING_SPACING_MARK, Character.ENCLOSING_MARK -> true
    else -> false
}

internal fun isWord(character: Int): Boolean = Character.isAlphabetic(character) || isMark(character) ||
    when (Character.getType(character).toByte()) {
        Character.DECIMAL_DIGIT_NUMBER, Character.CONNECTOR_PUNCTUATION -> true
        else -> character == 0x200C || character == 0x200D
    }

/** The text with each character replaced by what `change` gives for it. */
internal inline fun mapped(text: String, change: StringBuilder.(Int) -> Unit): String {
    val made = StringBuilder(text.length)
    var i = 0
    while (i < text.length) {
        val character = text.codePointAt(i)
        made.change(character)
        i += Character.charCount(character)
    }
    return made.toString()
}
