package org.prge.examples

// White space as Python's str.strip takes it.

private fun isSpace(c: Char): Boolean = when (c.code) {
    in 0x09..0x0D, in 0x1C..0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
    else -> false
}

internal fun isBlank(text: String): Boolean = text.all(::isSpace)

internal fun stripped(text: String): String = text.trim(::isSpace)

internal fun strippedRight(text: String): String = text.trimEnd(::isSpace)

/** The words of a text, as Python's str.split() takes them. */
internal fun words(text: String): List<String> {
    val words = ArrayList<String>()
    var from = 0
    for (at in 0..text.length) {
        if (at < text.length && !isSpace(text[at])) continue
        if (at > from) words += text.substring(from, at)
        from = at + 1
    }
    return words
}
