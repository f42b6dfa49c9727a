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
    val history = (turns(row["history"]) as? List<*>)
        ?.takeIf { it.isNotEmpty() && it.all { pair -> pair is List<*> && pair.size == 2 } }
    val found = when {
        named != null -> turns(row[named])
        history != null -> ofHistory(row, history)
        else -> ofPair(row)
    }
    if (!isTurns(found)) {
        throw UserError(
            "$where: \"messages\" must be a list of {\"role\": ..., \"content\": ...}, both text, as " +
                "[{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]"
        )
    }
    val messages = (found as List<*>).mapIndexed { i, turn -> message(turn as Turn, "$where, message ${i + 1}") }
    val system = (row["system"].takeIf(::holds) ?: row["system_prompt"]) as? String
    val missing = system != null && !isBlank(system) && messages.none { it["role"] == "system" }
    val begin = if (missing) listOf(mapOf("role" to "system", "content" to system)) else emptyList()
    return row + ("messages" to begin + messages)
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

private fun isTurns(value: Any?): Boolean {
    val turns = turns(value) as? List<*>
    return !turns.isNullOrEmpty() && turns.all { it is Map<*, *> }
}

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
    val found = listOf("role", "from", "speaker").firstNotNullOfOrNull { turn[it].takeIf(::holds) }
    val role = found?.toString().orEmpty().lowercase()
    return ROLES[role] ?: role
}

/** Alpaca with the turns before: pairs of what was asked and answered. */
private fun ofHistory(row: Record, history: List<*>): List<Turn> {
    val asked = listOf("instruction", "prompt", "input", "query").mapNotNull { row[it].takeIf(::holds) }
    val last = listOf(asked.joinToString("\n"), row["output"].takeIf(::holds) ?: row["response"] ?: "")
    return (history + listOf(last)).flatMap { pair ->
        val (user, assistant) = pair as List<*>
        listOf(mapOf("role" to "user", "content" to user), mapOf("role" to "assistant", "content" to assistant))
    }
}

private fun message(turn: Turn, where: String): Turn {
    val role = role(turn)
    if (role !in KNOWN) throw UserError("$where: role '$role' is none of ${KNOWN.joinToString()}")
    val content = listOf("content", "value", "text").map { turn[it] }.firstOrNull { it != null && it !is JsonNull }
    val kept = turn.filterKeys { it !in listOf("from", "value", "speaker", "text") }
    return kept + mapOf("role" to role, "content" to (content ?: ""))
}
