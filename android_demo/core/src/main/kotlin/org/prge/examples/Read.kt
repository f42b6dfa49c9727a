package org.prge.examples

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CodingErrorAction
import org.prge.UserError
import org.prge.files.Odd

/** A record, and the number of its line (or of the record itself, in JSON). */
class Numbered(val number: Int, val record: Record)

// Bytes. A file is in memory several times while it is read.
private const val DATA = 64L shl 20
// What Python's str.splitlines takes, once "\r" is gone.
private val LINE_END = Regex("[\n\u000B\u000C\u001C-\u001E\u0085\u2028\u2029]")
private val KINDS = listOf(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")

/** A row's place, for messages: its file and line. */
internal fun place(file: File, number: Int): String =
    "$file, ${if (file.extension == "json") "record" else "line"} $number"

/**
 * The rows of a file, each with its number.
 *
 * - CSV has a header.
 * - TSV has one if its first line holds any of [columns] or [aliases]; if not, its columns are [columns].
 * - `.txt` is such a TSV if its first line has a tab; if not, each paragraph is a row with the column `text`.
 * - JSON is a list of rows, or one row.
 *
 * @throws UserError missing, too large, empty, of an unknown kind, or malformed (with the line's number).
 */
internal fun readRecords(file: File, columns: List<String>, aliases: Collection<String> = emptyList()): List<Numbered> {
    if (!file.isFile) throw UserError("$file does not exist")
    val text by lazy { readText(file) }
    fun header(first: List<String>) = first.takeIf { it.any((columns + aliases)::contains) }
    val records = when ("." + file.extension.lowercase()) {
        ".jsonl", ".ndjson" -> jsonLines(file, text)
        ".json" -> json(file, text)
        ".csv" -> table(file, csv(file, text), columns) { it }
        ".tsv" -> table(file, tsv(text), columns, ::header)
        ".txt" ->
            if ('\t' in text.substringBefore('\n')) table(file, tsv(text), columns, ::header) else paragraphs(text)
        else -> throw UserError("$file: unknown kind of data file; use ${KINDS.joinToString()}")
    }
    return records.ifEmpty { throw UserError("$file holds no examples") }
}

private fun readText(file: File): String {
    val bytes = try {
        if (file.length() > DATA) {
            throw UserError("$file holds ${file.length()} bytes; a device reads up to $DATA: pack it with `prge pack`")
        }
        file.readBytes()
    } catch (e: IOException) {
        throw UserError("$file cannot be read: ${e.message}")
    }
    val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
    val input = ByteBuffer.wrap(bytes)
    val text = CharBuffer.allocate(bytes.size)
    if (decoder.decode(input, text, true).isError) {
        throw UserError("$file is not UTF-8 text (byte ${input.position()}); save it as UTF-8")
    }
    return text.flip().toString().removePrefix("\uFEFF").replace("\r\n", "\n").replace("\r", "\n")
}

private fun jsonLines(file: File, text: String): List<Numbered> {
    val records = ArrayList<Numbered>()
    for ((i, line) in text.splitToSequence('\n').withIndex()) {
        if (isBlank(line)) continue
        val row = try {
            readJson(line)
        } catch (e: Odd) {
            throw UserError("$file, line ${i + 1}: not a JSON object (${e.message})")
        }
        if (row !is Map<*, *>) {
            throw UserError("$file, line ${i + 1}: a JSON object was expected, as {\"text\": ..., \"label\": ...}")
        }
        records += Numbered(i + 1, asText(row))
    }
    return records
}

private fun json(file: File, text: String): List<Numbered> {
    val document = try {
        readJson(text)
    } catch (e: Odd) {
        throw UserError("$file: not JSON (${e.message})")
    }
    return (document as? List<*> ?: listOf(document)).mapIndexed { i, row ->
        Numbered(i + 1, asText(row as? Map<*, *> ?: throw UserError("$file: a list of JSON objects was expected")))
    }
}

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

/** Rows of cells as records. `header` takes the first row and gives the names in it; null if it is no header. */
private fun table(
    file: File, rows: Sequence<Pair<Int, List<String>>>, columns: List<String>, header: (List<String>) -> List<String>?,
): List<Numbered> {
    var names: List<String>? = null
    val records = ArrayList<Numbered>()
    for ((number, row) in rows) {
        if (names == null) {
            val found = header(row.map(::stripped))
            names = found ?: columns
            if (found != null) continue
        }
        if (row.size != names.size) {
            throw UserError(
                "$file, line $number: ${row.size} columns where ${names.size} were expected (${names.joinToString()})"
            )
        }
        records += Numbered(number, names.zip(row).toMap())
    }
    return records
}

/** In a TSV only tabs separate: quotes are part of the text. */
private fun tsv(text: String): Sequence<Pair<Int, List<String>>> =
    text.splitToSequence('\n').mapIndexed { i, line -> i + 1 to line.split('\t') }
        .filter { (_, row) -> row != listOf("") }
