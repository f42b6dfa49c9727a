package org.prge.examples

import org.prge.UserError
import org.prge.files.isText

/** Stands for one of the choices. */
internal const val CHOICE = "choice"

/** Stands for the mask token. */
internal const val MASK = "mask"

// Letters. The Bible has under 5 million.
private const val TEXT = 32 shl 20

/**
 * A text with names of columns in braces. Two braces stand for one.
 *
 * @throws UserError it holds more than text and names in braces.
 */
internal class Template(private val text: String) {
    private val parts = ArrayList<String>() // text and names in turn
    private val names get() = parts.filterIndexed { i, _ -> i % 2 == 1 }

    /** The columns that it names, without the mask. */
    val columns: List<String> get() = names.filter { it != MASK }

    init {
        val literal = StringBuilder()
        var at = 0
        while (at < text.length) {
            val c = text[at++]
            if (c != '{' && c != '}') {
                literal.append(c)
            } else if (text.getOrNull(at) == c) {
                literal.append(c)
                at++
            } else {
                val end = text.indexOf('}', at)
                if (c == '}' || end < 0 || !isName(text.substring(at, end))) {
                    throw UserError("template '$text': write column names in braces, as '{text}'")
                }
                parts += listOf(literal.toString(), text.substring(at, end))
                literal.clear()
                at = end + 1
            }
        }
        parts += literal.toString()
    }

    /**
     * The text with a record's columns in it.
     *
     * @throws UserError a column is missing or holds no text, or the text is too large.
     */
    fun fill(record: Record, where: String): String {
        for (name in names) {
            val held = record[name]
            if (held == null && name == CHOICE) throw UserError("$where: no label, so the right choice is unknown")
            if (held == null) {
                throw UserError(
                    "$where: no column '$name' for the template '$text'; it has ${record.keys.joinToString()}"
                )
            }
            if (held !is String) {
                val kind = if (held is List<*>) "list" else "dict"
                throw UserError("$where: column '$name' holds a $kind; a template takes text")
            }
        }
        val filled = parts.mapIndexed { i, part -> if (i % 2 == 1) record[part] else part }.joinToString("")
        if (!isText(filled)) throw UserError("$where is not text: it holds half a surrogate pair")
        if (filled.length > TEXT) {
            throw UserError("$where: a text of ${filled.length} letters; prge takes up to $TEXT: split it into several")
        }
        return filled
    }
}

private fun isName(text: String): Boolean = text.isNotEmpty() &&
    (text[0] == '_' || Character.isUnicodeIdentifierStart(text.codePointAt(0))) &&
    text.codePoints().skip(1).allMatch(Character::isUnicodeIdentifierPart)
