package org.prge.examples

import java.io.File
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonPrimitive
import org.prge.UserError
import org.prge.files.Odd

/**
 * What an example is, by a program's manifest. prge's manifest.py explains the fields.
 *
 * @param manifest the manifest, as the program's method `manifest` returns it.
 * @param pieces how the program's model takes a conversation; null where it takes none, or that is not known here.
 * @throws UserError the manifest cannot be read.
 */
class Form(manifest: String, private val pieces: Chat? = null) {
    private val json = try {
        readJson(manifest) as? Map<*, *> ?: throw Odd("it is no object")
    } catch (e: Odd) {
        throw UserError("the program's manifest cannot be read: ${e.message}")
    }
    internal val template = Template(text("template"))
    internal val target = Template(text("target"))
    internal val labels = (json["labels"] as? List<*> ?: odd("labels")).map {
        (it as? Map<*, *>)?.get("name") as? String ?: odd("labels")
    }
    internal val labelColumn = text("label_column")
    internal val choices = text("choices")
    internal val answerAt = text("answer_at")
    internal val maskToken = if (json["mask_token"] is JsonNull) null else whole("mask_token")
    internal val maxTokens = whole("max_tokens")
    internal val maxTargets = whole("max_targets")
    internal val stopTokens = (json["stop_tokens"] as? List<*> ?: odd("stop_tokens")).map {
        (it as? JsonPrimitive)?.content?.toIntOrNull() ?: odd("stop_tokens")
    }
    internal val vocabulary = whole("vocabulary", json["architecture"] as? Map<*, *> ?: odd("architecture"))
    internal val tokenizerSha256 = text("tokenizer_sha256")
    internal val chatTemplate = text("chat_template")

    /** Whether the program's examples are conversations. */
    val takesChats: Boolean get() = chatTemplate != ""

    /** How the model takes a conversation; a [UserError] where it takes none, or that is not known here. */
    val chat: Chat
        get() = pieces ?: throw UserError(
            if (chatTemplate == "") {
                "the model has no chat template; give plain text"
            } else {
                "the program's chat template is not beside it in pieces (${Chat.FILE}), and a device cannot run it: " +
                    "pack the conversations with `prge pack`, or export the program again"
            }
        )

    private val taskName = text("task")
    internal val isTask get() = taskName != ""

    init {
        val bounds = if (labels.isEmpty()) maxTokens > 1 && maxTargets > 0 else maxTokens > 0
        if (!bounds) odd("max_tokens")
    }

    /** The columns of the data that an example is made of. */
    val columns: List<String>
        get() = template.columns + target.columns + listOf(labelColumn).filter { labels.isNotEmpty() || choices != "" }

    /** The columns that somebody fills in who asks the model something: one for chats, and for text to be continued. */
    val asked: List<String> get() = template.columns.ifEmpty { target.columns }.distinct()

    /**
     * The records of a file. A row may hold several, as the turns of a conversation. They share its number.
     *
     * @throws UserError the file cannot be read, or a row is not of the form's kind.
     */
    fun records(file: File): List<Numbered> {
        val task = if (isTask) task(taskName) else null
        val expected =
            if (task == null) Expected(columns, labels = labels) else Expected(task.columns, task.renamed.keys)
        var rows = readRecords(file, expected)
        if (task == null && chatTemplate == "") { // JSON's rows may lack what is empty in them, and hold lists
            val held = rows.flatMapTo(HashSet()) { it.record.keys }
            val needed = columns.filter(held::contains)
            val answers = target.columns.toSet() + labelColumn
            rows = rows.map { row ->
                val whole = row.record.mapValues { (name, value) -> if (name in answers) asOne(name, value) else value }
                row.with(whole + (needed - row.record.keys).associateWith { "" })
            }
        }
        val records = rows.flatMap { row ->
            unfold(row.record, task, place(file, row)).map(row::with)
        }
        if (task == null || file.extension != "json") return records
        // One document may hold them all.
        return records.mapIndexed { i, it -> Numbered(i + 1, it.record, recorded = true) }
    }

    private fun unfold(row: Record, task: Task?, where: String): List<Record> = when {
        task != null -> listOf(task.record(row, labels, where))
        chatTemplate != "" -> chat.records(asMessages(row, where), where)
        choices != "" -> listOf(chosen(row, where))
        else -> listOf(row)
    }

    /**
     * A row with its right choice as the column `choice`, and that choice's index, from 0, as its label.
     *
     * The row's own label is the choice itself, its letter, or its index. A row without a label stays without both.
     */
    private fun chosen(row: Record, where: String): Record {
        if (CHOICE == choices || CHOICE == labelColumn) {
            throw UserError("$where: the column '$CHOICE' is prge's own; give yours another name")
        }
        val held = (row[choices] as? List<*>)?.filterIsInstance<String>()
        if (held == null || held.size < 2 || held.size != (row[choices] as List<*>).size) {
            throw UserError("$where: column '$choices' must be a list of at least two texts")
        }
        val label = row[labelColumn]?.takeIf { it != "" } ?: return row - CHOICE - labelColumn
        val named = held.lastIndexOf(label as? String)
        val right = when {
            named >= 0 -> named
            label is String && label in held.indices.map(Int::toString) -> label.toInt()
            else -> held.indices.firstOrNull { label == ('A' + it).toString() }
                ?: throw UserError("$where: $labelColumn '$label' is none of the choices, nor a letter or index of one")
        }
        return row + mapOf(labelColumn to "$right", CHOICE to held[right])
    }

    /** A record's class; empty where there are none. */
    internal fun classOf(record: Record): String =
        if (labels.isEmpty()) "" else record[labelColumn]?.toString().orEmpty()

    /** Prompt and target in one text, which tells a record from others; the label is no part of it. */
    internal fun text(record: Record, where: String = "the data"): String =
        template.fill(mapOf(MASK to "") + record, where) + target.fill(record, where)

    private fun text(name: String): String = json[name] as? String ?: odd(name)

    private fun whole(name: String, of: Map<*, *> = json): Int =
        (of[name] as? JsonPrimitive)?.content?.toIntOrNull()?.takeIf { it >= 0 } ?: odd(name)

    private fun odd(name: String): Nothing =
        throw UserError("the program's manifest cannot be read: $name is missing or odd")
}
