package org.prge.examples

import java.io.File
import org.prge.UserError

/**
 * The rows of a CSV file, each with the number of its last line. Empty lines are none.
 *
 * A cell that begins with a quote ends with one. Inside, two quotes stand for one, and commas and new lines are text.
 */
internal fun csv(file: File, text: String): Sequence<Pair<Int, List<String>>> = sequence {
    var line = 1
    var at = 0
    while (at < text.length) {
        val row = ArrayList<String>()
        if (text[at] != '\n') {
            while (true) {
                val cell = StringBuilder()
                if (at < text.length && text[at] == '"') {
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
                    if (at < text.length && text[at] != ',' && text[at] != '\n') {
                        throw UserError("$file, line $line: ',' expected after '\"'")
                    }
                } else {
                    while (at < text.length && text[at] != ',' && text[at] != '\n') cell.append(text[at++])
                }
                if (cell.startsWith(" \"")) {
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
