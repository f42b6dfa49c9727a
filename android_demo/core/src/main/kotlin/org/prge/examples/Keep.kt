package org.prge.examples

import java.io.File
import org.prge.UserError

// What programs write where there is nothing.
private val MISSING = setOf("", "nan", "NaN", "null", "NULL", "N/A", "#N/A", "<NA>")
// A label that occurs once is a mistake where the others occur so often, by their median.
private const val OFTEN = 10

/** A number as pandas writes it where another cell of its column is empty. */
private val WHOLE = Regex("(-?[0-9]+)\\.0+")

/** The records with something to learn, with the classes as the form names them; and how many others, and why. */
internal class Kept(val records: List<Numbered>, val leftOut: Int, val told: List<String>)

/**
 * The records that a form can learn from.
 *
 * Left out are those without a label, without a text or without an answer, and labels that occur once where the others
 * are common and that are no class of the form. A label that differs from one class alone by case or white space is
 * that class; where classes are learned as text, it is read in its commonest spelling.
 *
 * @throws UserError none is left, although there are some.
 */
internal fun keep(form: Form, records: List<Numbered>, file: File): Kept {
    val texts = form.classesAsText
    val column = texts ?: form.labelColumn
    fun label(of: Numbered) = of.record[column]?.toString().orEmpty()
    val names = if (texts == null) form.labels else commonest(records.map(::label))
    val known = names.associateBy(::folded).takeIf { it.size == names.size }.orEmpty()
    val chosen = (names.isNotEmpty() || form.choices != "") && records.any { !isMissing(label(it)) }
    val strays = if (names.isEmpty() || form.isTask) emptySet() else strays(records.map(::label)) - known.keys
    val kept = ArrayList<Numbered>()
    val leftOut = LinkedHashMap<String, ArrayList<Numbered>>()
    val merged = LinkedHashMap<String, ArrayList<Numbered>>()
    for (row in records) {
        val label = label(row)
        val why = when {
            label !in names && folded(label) in strays -> "a label that occurs once, '$label'"
            chosen && label !in names && isMissing(label) -> "having no label"
            else -> form.lack(row.record)
        }
        val name = known[folded(label)]
        if (why != null) {
            leftOut.getOrPut(why, ::ArrayList) += row
        } else if (label !in names && name != null) {
            merged.getOrPut(name, ::ArrayList) += row
            kept += row.with(row.record + (column to name))
        } else {
            kept += row
        }
    }
    val told = leftOut.map { (why, rows) -> "left out for $why: ${counted(rows)}" } +
        merged.map { (name, rows) -> "read as '$name', which they spell otherwise: ${counted(rows)}" }
    if (kept.isEmpty()) throw UserError("$file: nothing is left to learn from: ${told.joinToString("; ")}")
    return Kept(kept, leftOut.values.sumOf { it.size }, told)
}

/** What a record lacks, of what the form learns from. */
private fun Form.lack(record: Record): String? =
    listOf(target to "an empty answer", template to "an empty text").firstOrNull { (template, _) ->
        template.columns.isNotEmpty() && template.columns.all { record[it] == "" }
    }?.second

private fun isMissing(label: String) = stripped(label) in MISSING

/** The column whose classes a form learns as text, because there are many; null for any other form. */
private val Form.classesAsText: String?
    get() {
        val column = target.columns.singleOrNull() ?: return null
        val title = column.replace('_', ' ').let(::stripped).lowercase().replaceFirstChar(Char::titlecase)
        val asks = target.text == " {$column}" && template.text.endsWith("\n$title:")
        return column.takeIf { asks && !isTask && !isAnswer(column) }
    }

/** Each class of some labels in its commonest spelling, without those that occur once where the others are common. */
private fun commonest(labels: List<String>): List<String> {
    val strays = strays(labels)
    val order = compareBy<Map.Entry<String, Int>>({ -it.value }, { it.key != stripped(it.key) }, { it.key })
    return labels.filterNot(::isMissing).groupingBy { it }.eachCount().entries.sortedWith(order).map { it.key }
        .groupBy(::folded).filterKeys { it !in strays }.values
        .map { spellings -> if (spellings.size > 1) stripped(spellings[0]) else spellings[0] }
}

/** A label as it is compared: in whatever case, with whatever white space; and 1.0 is 1. */
private fun folded(label: String): String = WHOLE.matchEntire(stripped(label))?.let { it.groupValues[1] }
    ?: words(label).joinToString(" ") { word ->
        word.uppercase().map { it.lowercase() }.joinToString("") // "ẞ" is "ss", and an "ς" at an end is a "σ"
    }

/** The labels, as they are compared, that occur once where the others are common. */
private fun strays(labels: List<String>): Set<String> {
    val counts = labels.filterNot(::isMissing).groupingBy(::folded).eachCount()
    val others = counts.values.filter { it > 1 }.sorted()
    val median = if (others.size < 2) 0 else others[(others.size - 1) / 2] + others[others.size / 2]
    return if (median >= 2 * OFTEN) counts.filterValues { it == 1 }.keys else emptySet()
}

/** How many rows, and where the first of them are. */
private fun counted(rows: List<Numbered>): String {
    val s = if (rows.size > 1) "s" else ""
    val shown = rows.take(5).joinToString { "${it.number}" } + if (rows.size > 5) ", ..." else ""
    return "%,d row$s (${if (rows[0].recorded) "record" else "line"}$s $shown)".format(java.util.Locale.ROOT, rows.size)
}
