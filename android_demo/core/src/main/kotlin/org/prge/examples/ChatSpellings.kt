package org.prge.examples

import kotlinx.serialization.json.JsonNull
import org.prge.UserError
import org.prge.files.Odd

// Conversations in the spellings of the ecosystem, as one: `messages` with `role` and `content`.

private typealias Turn = Map<*, *>

private val CHATS = listOf("messages", "conversations", "conversation")
private val ROLES = mapOf(
    "human" to "user", "prompter" to "user", "gpt" to "assistant", "chatgpt" to "assistant", "bot" to "assistant",
    "model" to "assistant", "ai" to "assistant", "developer" to "system", "function_call" to "assistant",
    "observation" to "tool",
)
private val KNOWN = listOf("assistant", "function", "system", "tool", "user")

/**
 * A row with its conversation as `messages`: a list of `role` and `content`, for [Chat.records].
 *
 * The known spellings are OpenAI's, with contents in parts or null; ShareGPT's; TRL's `prompt` and `completion`;
 * preference pairs, of which `chosen` is taken; and Alpaca's `history`.
 *
 * @throws UserError it is in none of them, or a message has an unknown role.
 */
internal fun asMessages(row: Record, where: String): Record {
    val named = CHATS.firstOrNull { holds(row[it]) }
    val history = turns(row["history"]).takeIf { holds(it) && (it as? List<*>)?.all { pair -> pair is List<*> && pair.size == 2 } == true }
    val found = if (named != null) turns(row[named]) else if (history != null) ofHistory(row, history as List<*>) else ofPair(row)
    if (!isTurns(found)) {
        throw UserError(
            "$where: \"messages\" must be a list of {\"role\": ..., \"content\": ...}, both text, as " +
                "[{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]"
        )
    }
    val messages = (found as List<*>).mapIndexed { i, turn -> message(turn as Turn, "$where, message ${i + 1}") }
    val system = (row["system"].takeIf(::holds) ?: row["system_prompt"]) as? String
    val begun = system != null && !isBlank(system) && messages.none { it["role"] == "system" }
    return row + ("messages" to if (begun) listOf(mapOf("role" to "system", "content" to system)) + messages else messages)
}

/** Whether a value is there, and not empty. */
private fun holds(value: Any?) = value != null && value !is JsonNull && value != "" && value != emptyList<Any>()

/** A list of turns; tables have some as JSON in a text. */
private fun turns(value: Any?): Any? = if (value is String && stripped(value).startsWith("[")) {
    try {
        readJson(value)
    } catch (e: Odd) {
        value
    }
} else {
    value
}

private fun isTurns(value: Any?) = turns(value).let { it is List<*> && it.isNotEmpty() && it.all { turn -> turn is Map<*, *> } }

/** The turns of a prompt and what follows it. */
private fun ofPair(row: Record): Any? {
    val reply = turns(row["completion"].takeIf(::holds) ?: row["chosen"])
    var prompt = turns(row["prompt"].takeIf(::holds) ?: emptyList<Any>())
    if (prompt is String) prompt = listOf(mapOf("role" to "user", "content" to prompt))
    if (!isTurns(reply) || prompt !is List<*>) return null
    reply as List<*>
    val whole = reply.take(prompt.size) == prompt || (reply.size > 1 && role(reply[0] as Turn) != "assistant")
    return if (whole) reply else prompt + reply
}

private fun role(turn: Turn): String {
    val role = listOf("role", "from", "speaker").firstNotNullOfOrNull { turn[it].takeIf(::holds) }?.toString().orEmpty().lowercase()
    return ROLES[role] ?: role
}

/** Alpaca with the turns before: pairs of what was asked and answered. */
private fun ofHistory(row: Record, history: List<*>): List<Turn> {
    val asked = listOf("instruction", "prompt", "input", "query").mapNotNull { row[it].takeIf(::holds) }.joinToString("\n")
    val pairs = history + listOf(listOf(asked, row["output"].takeIf(::holds) ?: row["response"] ?: ""))
    return pairs.flatMap { pair ->
        listOf("user", "assistant").zip(pair as List<*>).map { (role, text) -> mapOf("role" to role, "content" to text) }
    }
}

private fun message(turn: Turn, where: String): Turn {
    val role = role(turn)
    if (role !in KNOWN) throw UserError("$where: role '$role' is none of ${KNOWN.joinToString()}")
    val content = listOf("content", "value", "text").firstNotNullOfOrNull { name -> turn[name].takeIf { it !is JsonNull } } ?: ""
    return turn.filterKeys { it !in listOf("from", "value", "speaker", "text") } + mapOf("role" to role, "content" to content)
}
