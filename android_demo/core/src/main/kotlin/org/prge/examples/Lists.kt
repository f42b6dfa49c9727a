package org.prge.examples

import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonPrimitive

/** What columns of answers are usually called, as [key] writes it. */
private val ANSWERS = setOf(
    "output", "outputs", "response", "completion", "answer", "target", "targets", "summary", "highlights", "reply",
    "solution", "assistant", "chosen", "answer text", "bot", "gpt",
)
private val HUMP = Regex("(?<=[a-z])(?=[A-Z])")
private val WORD = Regex("[\\p{L}\\p{N}]+")

/**
 * A list of texts and numbers as one text; any other value as it is. In a column of answers each is right, and the
 * first is taken. In one of labels all of them hold.
 */
internal fun asOne(column: String, value: Any): Any {
    if (value !is List<*> || !value.all { it is String || (it is JsonPrimitive && it !is JsonNull) }) return value
    val texts = value.map { it as? String ?: spelled(it as JsonPrimitive) }
    return if (isAnswer(column)) texts.firstOrNull().orEmpty() else texts.joinToString()
}

/** Whether a column's name is that of an answer. */
internal fun isAnswer(column: String): Boolean = key(column).let { it in ANSWERS || it.substringAfterLast(' ') in ANSWERS }

/** A column's name as it is compared: `Answer_Text` and `answerText` are `answer text`. */
private fun key(name: String): String =
    WORD.findAll(HUMP.replace(name, " ").lowercase()).joinToString(" ") { it.value }
