package org.prge.examples

import java.io.File
import org.prge.UserError
import org.prge.files.Odd

private val TURN = setOf("role", "from", "speaker", "function")

/** Whether a text begins as JSON's rows do. */
internal fun isJson(text: String): Boolean = text.firstOrNull { !isBlank("$it") }.let { it == '[' || it == '{' }

/**
 * JSON as rows: an array, JSON Lines, objects one after the other, any of these in an object, or cells by column. Each
 * has the number of its line; in an array, its own.
 *
 * @throws UserError it is not JSON, or its values are no objects. The message has the line, where there is one.
 */
internal fun jsonRows(file: File, text: String): List<Numbered> {
    val begun = text.dropWhile { isBlank("$it") }
    val alone = try { // whether the first line is JSON by itself
        readJson(begun.substringBefore('\n'))
        true
    } catch (e: Odd) {
        false
    }
    if (begun.startsWith("[")) {
        try {
            return numbered(file, readJson(text) as List<*>)
        } catch (e: Odd) {
            if (!alone) throw UserError("$file: not JSON (${e.message})")
        }
    }
    val rows = if (alone) lines(file, text) else objects(file, text)
    val only = rows.singleOrNull()?.second as? Map<*, *>
    val inside = only?.let { byColumn(it) ?: unwrapped(file, it) }
    if (inside != null) return numbered(file, inside)
    return rows.map { (number, row) ->
        val fields = row as? Map<*, *>
            ?: throw UserError("$file, line $number: a JSON object was expected, as {\"text\": ..., \"label\": ...}")
        Numbered(number, asText(fields))
    }
}

private fun numbered(file: File, rows: List<*>): List<Numbered> = rows.mapIndexed { i, row ->
    if (row !is Map<*, *>) throw UserError("$file, record ${i + 1}: a list of JSON objects was expected")
    Numbered(i + 1, asText(row), recorded = true)
}

private fun lines(file: File, text: String): List<Pair<Int, Any>> =
    text.splitToSequence('\n').withIndex().filter { !isBlank(it.value) }.map { (i, line) ->
        try {
            i + 1 to readJson(line)
        } catch (e: Odd) {
            throw UserError("$file, line ${i + 1}: not a JSON object (${e.message})")
        }
    }.toList()

/** Objects over several lines, with or without commas between them. */
private fun objects(file: File, text: String): List<Pair<Int, Any>> {
    val rows = ArrayList<Pair<Int, Any>>()
    var at = 0
    var line = 1
    while (true) {
        while (at < text.length && (text[at] == ',' || isBlank("${text[at]}"))) if (text[at++] == '\n') line++
        if (at == text.length) return rows
        val end = end(text, at)
        try {
            rows += line to readJson(text.substring(at, end))
        } catch (e: Odd) {
            throw UserError("$file, line $line: not JSON (${e.message})")
        }
        line += (at until end).count { text[it] == '\n' }
        at = end
    }
}

/** Where the value ends that begins at [start]. */
private fun end(text: String, start: Int): Int {
    var depth = 0
    var quoted = false
    var at = start
    while (at < text.length) {
        when (text[at]) {
            '\\' -> if (quoted) at++
            '"' -> quoted = !quoted
            '{', '[' -> if (!quoted) depth++
            '}', ']' -> if (!quoted && --depth <= 0) return at + 1
        }
        at++
    }
    return text.length
}

/** The rows in an object that wraps them; null for an object that is a row itself. */
private fun unwrapped(file: File, row: Map<*, *>): List<*>? {
    val lists = row.filterValues { it is List<*> && it.isNotEmpty() && it.all { each -> each is Map<*, *> } }
    fun isTurn(row: Any?) = (row as Map<*, *>).keys.any(TURN::contains)
    if (lists.isEmpty() || lists.values.any { isTurn((it as List<*>)[0]) }) return null
    if (lists.size > 1) {
        throw UserError(
            "$file holds several lists (${lists.keys.joinToString()}): put the one to learn from into a file of its own"
        )
    }
    return lists.values.single() as List<*>
}

/** The rows of a table that pandas wrote: of each column, the cells by the number of their row. */
private fun byColumn(row: Map<*, *>): List<*>? {
    val columns = row.values.map { it as? Map<*, *> ?: return null }
    val numbers = columns.firstOrNull()?.keys ?: return null
    if (columns.any { it.keys != numbers } || numbers.any { "$it" == "" || !"$it".all(Char::isDigit) }) return null
    return numbers.map { number -> row.mapValues { (_, cells) -> (cells as Map<*, *>)[number] } }
}
