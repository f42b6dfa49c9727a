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
internal class Template(val text: String) {
    private val lines = text.split('\n').map(::parsed) // of each line, text and names in turn
    private val names get() = lines.flatMap(::namesOf)

    /** The columns that it names, without the mask. */
    val columns: List<String> get() = lines.flatMap(::columnsOf)

    private fun namesOf(line: List<String>) = line.filterIndexed { i, _ -> i % 2 == 1 }

    private fun columnsOf(line: List<String>) = namesOf(line).filter { it != MASK }

    private fun parsed(text: String): List<String> {
        val parts = ArrayList<String>()
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
                    throw UserError("template '${this.text}': write column names in braces, as '{text}'")
                }
                parts += listOf(literal.toString(), text.substring(at, end))
                literal.clear()
                at = end + 1
            }
        }
        return parts + literal.toString()
    }

    /**
     * The text with a record's columns in it, without the lines whose columns are all empty, as long as one with
     * columns is left.
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
        val held = lines.filter { line -> columnsOf(line).run { isEmpty() || any { record[it] != "" } } }
        val shown = if (held.any { columnsOf(it).isNotEmpty() }) held else lines
        val filled = shown.joinToString("\n") { line ->
            line.mapIndexed { i, part -> if (i % 2 == 1) record[part] else part }.joinToString("")
        }
        if (!isText(filled)) throw UserError("$where is not text: it holds half a surrogate pair")
        if (filled.length > TEXT) {
            throw UserError("$where: a text of ${filled.length} letters; prge takes up to $TEXT: split it into several")
        }
        return filled
    }
}

private fun isName(text: String): Boolean = text.isNotEmpty() && text.none { it in ".[]{}!:" } &&
    !text.first().isWhitespace() && !text.last().isWhitespace() && !text.all(Char::isDigit)
