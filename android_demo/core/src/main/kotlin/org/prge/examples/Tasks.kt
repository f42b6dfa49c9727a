package org.prge.examples

import org.prge.UserError

/**
 * How the files of a named task differ from plain rows with the template's columns.
 *
 * @property columns the columns of its TSV, if that has no header.
 * @property renamed name in its files -> name in the template.
 */
internal class Task(val columns: List<String>, val renamed: Map<String, String> = emptyMap())

private val PAIR = listOf("sentence1", "sentence2", "label")

/** The tasks whose rows need no more than that. The files of the others are folded up, and `prge pack` reads them. */
private val TASKS = mapOf(
    "sst2" to Task(listOf("sentence", "label"), mapOf("text" to "sentence")),
    "rte" to Task(PAIR, mapOf("premise" to "sentence1", "hypothesis" to "sentence2")),
    "mrpc" to Task(
        listOf("label", "id1", "id2", "sentence1", "sentence2"),
        mapOf("Quality" to "label", "#1 String" to "sentence1", "#2 String" to "sentence2"),
    ),
    "qqp" to Task(listOf("id", "qid1", "qid2", "question1", "question2", "label"), mapOf("is_duplicate" to "label")),
    "qnli" to Task(listOf("question", "sentence", "label")),
    "wnli" to Task(PAIR),
    "boolq" to Task(emptyList(), mapOf("answer" to "label")),
    "wic" to Task(emptyList()),
    "cb" to Task(emptyList()),
)

/** A task by its name; a [UserError] if its files cannot be read here. */
internal fun task(name: String): Task = TASKS[name]
    ?: throw UserError("the files of the task $name are read by `prge pack` alone; pack them, and give the packed file")

/** A row as the template of a task takes it. Its label becomes the class's name; files have its number. */
internal fun Task.record(row: Record, names: List<String>, where: String): Record {
    val record = row.mapKeys { (name, _) -> renamed[name] ?: name }
    val given = record["label"] ?: return record
    val label = when ((given as? String)?.lowercase()) {
        "-1" -> return record - "label" // the hub's test sets
        "false" -> "0"
        "true" -> "1"
        else -> given
    }
    if (label !is String || !label.matches(Regex("[0-9]+"))) return record
    val name = names.getOrNull(label.toIntOrNull() ?: -1)
        ?: throw UserError("$where: not an example of this task: label $label; its classes are ${names.joinToString()}")
    return record + ("label" to name)
}
