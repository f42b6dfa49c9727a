package org.prge.examples

import java.io.File
import org.prge.UserError

/**
 * A record.
 *
 * @property number of its line; where it has no line of its own ([recorded]), of the record itself.
 */
class Numbered(val number: Int, val record: Record, val recorded: Boolean = false) {
    /** What the row holds instead. */
    fun with(record: Record) = Numbered(number, record, recorded)
}

// What Python's str.splitlines takes, once "\r" is gone.
private val LINE_END = Regex("[\n\u000B\u000C\u001C-\u001E\u0085\u2028\u2029]")
private val JSON = setOf("jsonl", "ndjson", "json")
private val KINDS = JSON + setOf("csv", "tsv", "txt")

/** A row's place, for messages: its file and line. */
internal fun place(file: File, row: Numbered): String = "$file, ${if (row.recorded) "record" else "line"} ${row.number}"

/** What a user does with a file that only a computer reads. */
internal fun packing(file: File): String =
    "on a computer, `prge pack PROGRAM --data ${file.name} -o data.prge` makes a file of it that is taken here"

/**
 * The rows of a file, each with its number.
 *
 * Its name's end tells whether it is JSON, a table or text, and its content the rest: how it is encoded, which kind of
 * JSON it is ([jsonRows]), what separates the cells and whether there is a header ([tableRows]). A `.txt` is a table if
 * its first line has a tab; if not, each paragraph is a row with the column `text`.
 *
 * @throws UserError missing, too large, empty, of an unknown kind, or malformed (with the line's number).
 */
internal fun readRecords(file: File, expected: Expected): List<Numbered> {
    if (!file.isFile) throw UserError("$file does not exist")
    val kind = file.extension.lowercase()
    if (kind !in KINDS) {
        throw UserError("$file: unknown kind of data file; use ${KINDS.joinToString { ".$it" }}; or ${packing(file)}")
    }
    val text = textOf(file)
    val records = when {
        kind in JSON -> jsonRows(file, text)
        isJson(text) -> try {
            jsonRows(file, text) // although its name ends otherwise
        } catch (e: UserError) { // a table or a text that begins with a bracket
            tableOrText(file, text, kind, expected)
        }
        else -> tableOrText(file, text, kind, expected)
    }
    return records.ifEmpty { throw UserError("$file holds no examples") }
}

private fun tableOrText(file: File, text: String, kind: String, expected: Expected): List<Numbered> =
    if (kind == "txt" && '\t' !in text.substringBefore('\n')) paragraphs(text)
    else tableRows(file, text, if (kind == "csv") ',' else '\t', expected)

/** Blocks of lines between empty lines, each with the number of its first line; or the lines of the only block. */
private fun paragraphs(text: String): List<Numbered> {
    val records = ArrayList<Numbered>()
    val block = ArrayList<String>()
    for ((i, line) in (text + "\n").split(LINE_END).withIndex()) {
        if (!isBlank(line)) {
            block += line
        } else if (block.isNotEmpty()) {
            records += Numbered(i + 1 - block.size, mapOf("text" to block.joinToString("\n")))
            block.clear()
        }
    }
    val only = records.singleOrNull() ?: return records
    val lines = (only.record["text"] as String).split('\n')
    return lines.mapIndexed { i, line -> Numbered(only.number + i, mapOf("text" to line)) }
}
