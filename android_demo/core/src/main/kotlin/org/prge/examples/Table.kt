package org.prge.examples

import java.io.File
import org.prge.UserError

private typealias Cells = List<String>

private const val SEPARATORS = ",;\t|"
// So many rows tell the separator and the columns.
private const val LOOK = 1000
private const val DIGITS = "\\d+(?:_\\d+)*"
private val A_NUMBER =
    Regex("[+-]?(?:(?:$DIGITS\\.?(?:$DIGITS)?|\\.$DIGITS)(?:[eE][+-]?\\d+)?|(?i:nan|inf|infinity))")

/**
 * What a program knows of the tables that it takes.
 *
 * @property columns the names that a header would have, and the columns of a table without one; the label's is last.
 * @property aliases more names that a header may have.
 * @property labels names of classes, which tell the label's column.
 */
internal class Expected(
    val columns: List<String>, val aliases: Collection<String> = emptyList(),
    val labels: Collection<String> = emptyList(),
)

/**
 * The rows of a table, each with the number of its last line. Empty lines are none.
 *
 * @param usual the separator that a file of this name has. With tabs, quotes are part of the text.
 * @throws UserError a row has more or fewer cells than the others, a quote is never closed (with the line), or there is
 *   no header and the number of columns is not what the program takes.
 */
internal fun tableRows(file: File, text: String, usual: Char, expected: Expected): List<Numbered> {
    val first = stripped(text.substringBefore('\n'))
    // As Excel begins some.
    val named = first.takeIf { it.length == 5 && it.startsWith("sep=") }?.last()?.takeIf { it in SEPARATORS }
    val separator = named ?: separator(file, text, usual)
    val rows = cells(file, text, separator).drop(if (named == null) 0 else 1).toList()
    if (rows.isEmpty()) return emptyList()
    val look = rows.take(LOOK).map { it.second }
    val header = isHeader(look, usual, expected)
    val names = if (header) look[0].map(::stripped) else names(file, look, expected)
    names.filter { it != "" }.groupingBy { it }.eachCount().entries.find { it.value > 1 }?.let {
        throw UserError("$file: two columns are called '${it.key}'; give each a name of its own")
    }
    return rows.drop(if (header) 1 else 0).map { (number, row) ->
        if (row.size != names.size) {
            throw UserError(
                "$file, line $number: ${row.size} columns where ${names.size} were expected (${names.joinToString()})"
            )
        }
        Numbered(number, names.zip(row).toMap())
    }
}

/** The sign that gives all rows as many cells as the first; the usual one if it does. */
private fun separator(file: File, text: String, usual: Char): Char {
    val head = text.splitToSequence('\n').take(LOOK).joinToString("\n")
    return SEPARATORS.mapNotNull { sign ->
        val counts = try {
            cells(file, head, sign).map { it.second.size }.toList()
        } catch (e: UserError) {
            return@mapNotNull null
        }
        if (counts.isEmpty() || counts[0] < 2) return@mapNotNull null
        Triple(sign, counts.count { it == counts[0] }.toDouble() / counts.size, counts[0])
    }.filter { it.second > 0.9 }
        .maxWithOrNull(compareBy({ it.second }, { it.first == usual }, { it.third }))?.first ?: usual
}

private fun isHeader(look: List<Cells>, usual: Char, expected: Expected): Boolean {
    val names = look[0].map(::stripped)
    if (names.any { it in expected.columns || it in expected.aliases }) return true
    // A table with tabs may well have none.
    return (usual == ',' || expected.columns.isEmpty()) && looksLikeNames(names, look.drop(1))
}

/** Whether cells are names of columns: short, no numbers, no two alike, and none a value further down. */
private fun looksLikeNames(names: Cells, rest: List<Cells>): Boolean {
    val held = names.filter { it != "" }
    val words = if (names.size > 1) 5 else 2 // one column alone is mostly a list of texts
    fun isValue(name: String) = name.length > 60 || words(name).size > words || A_NUMBER.matches(name)
    if (held.toSet().size < held.size || names.any(::isValue)) return false
    return rest.none { row -> names.withIndex().any { (i, cell) -> cell != "" && cell == row.getOrNull(i) } }
}

/** Names for the columns of a table without a header. */
private fun names(file: File, look: List<Cells>, expected: Expected): List<String> {
    val (columns, width) = expected.columns to look[0].size
    if (columns.size != width) {
        throw UserError(
            "$file: there is no header, and its $width columns are not the ${columns.size} that the program takes; " +
                "put a line with the columns' names first, as ${columns.joinToString()}"
        )
    }
    val known = (0 until width).map { i -> look.count { row -> row.getOrNull(i)?.let(::stripped) in expected.labels } }
    val label = known.indexOf(known.max()).takeIf { known.max() > 0 } ?: return columns
    return columns.dropLast(1).toMutableList().apply { add(label, columns.last()) }
}

/**
 * A cell that begins with a quote ends with one. Inside, two quotes stand for one, and separators and new lines are
 * text. Where tabs separate, quotes are text themselves.
 */
private fun cells(file: File, text: String, separator: Char): Sequence<Pair<Int, Cells>> = sequence {
    var line = 1
    var at = 0
    while (at < text.length) {
        val row = ArrayList<String>()
        if (text[at] != '\n') {
            while (true) {
                val cell = StringBuilder()
                if (at < text.length && text[at] == '"' && separator != '\t') {
                    at++
                    while (true) {
                        val end = text.indexOf('"', at)
                        if (end < 0) throw UserError("$file, line $line: a quote is never closed")
                        cell.append(text, at, end)
                        at = end + 1
                        if (at == text.length || text[at] != '"') break
                        cell.append('"')
                        at++
                    }
                    line += cell.count { it == '\n' }
                    if (at < text.length && text[at] != separator && text[at] != '\n') {
                        throw UserError("$file, line $line: '$separator' expected after '\"'")
                    }
                } else {
                    while (at < text.length && text[at] != separator && text[at] != '\n') cell.append(text[at++])
                }
                if (separator != '\t' && cell.startsWith(" \"")) {
                    throw UserError("$file, line $line: a space before a quote: `prge pack` on a computer reads it")
                }
                row += cell.toString()
                if (at == text.length || text[at] == '\n') break
                at++
            }
        }
        if (row.isNotEmpty()) yield(line to row)
        at++
        line++
    }
}
