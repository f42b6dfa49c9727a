package org.prge.examples

import java.io.File
import java.io.IOException
import kotlinx.serialization.json.JsonNull
import org.prge.UserError
import org.prge.files.Odd

/** A message of a conversation; the role is "system", "user" or "assistant". */
class Message(val role: String, val content: String)

/**
 * How a model takes a conversation, by the pieces of its chat template.
 *
 * Chat templates are programs in Jinja, which a device does not have. So `prge export` writes into `chat.json` what the
 * template puts between the messages, and checks that it writes nothing else. A conversation is then gaps and contents
 * in turn. It may begin with the system's message; behind it the user and the assistant speak in turn.
 */
class Chat private constructor(json: Map<*, *>) {
    private val template = json["template"]
    private val specialTokens = json["special_tokens"]
    private val gaps = json["gaps"] as Map<*, *>
    private val edges = json["edges"] as Map<*, *>
    private val reserved = (json["reserved"] as List<*>).map { it as String }

    /**
     * The conversation as text.
     *
     * @param reply whether the text ends where the assistant begins to speak.
     * @throws UserError the pieces cannot write this conversation.
     */
    fun render(messages: List<Message>, reply: Boolean = false): String {
        val end = messages.lastOrNull()?.role.orEmpty() + if (reply) ", reply" else ", end"
        return before(messages) + (messages.lastOrNull()?.let(::content) ?: "") + gap(end)
    }

    /** The conversation up to where the last message's content begins. */
    private fun before(messages: List<Message>): String {
        val text = StringBuilder()
        var before = ""
        for ((i, message) in messages.withIndex()) {
            val last = i == messages.size - 1
            text.append(gap("$before, ${message.role}" + if (last) ", the last" else ""))
            if (!last) text.append(content(message))
            before = message.role
        }
        return text.toString()
    }

    private fun gap(name: String): String = gaps[name] as? String ?: throw UserError(
        "the chat template cannot write this conversation here: after a system message, if any, the user and the " +
            "assistant must speak in turn; or pack it with `prge pack`"
    )

    private fun content(message: Message): String {
        val stripped = stripped(message.content)
        val way = edges[message.role]
        if (way == "refused" && (stripped == "" || stripped != message.content)) {
            throw UserError(
                "the chat template cannot write this conversation here: a message is empty, or begins or ends with " +
                    "white space; take that away, or pack it with `prge pack`"
            )
        }
        reserved.find { it in message.content }?.let {
            throw UserError(
                "the chat template cannot write this conversation here: a message holds \"$it\", which the template " +
                    "looks for; pack it with `prge pack`"
            )
        }
        return if (way == "stripped") stripped else message.content
    }

    /**
     * A record for every turn of the assistant. Its `prompt` is the conversation before the turn. Its `answer` is the
     * turn with its end-of-turn token. Both together are the conversation up to there, as the template writes it.
     *
     * @throws UserError the row has no `messages` of text, none of them is the assistant's, or they call tools.
     */
    fun records(row: Record, where: String): List<Record> {
        val held = row["messages"] as? List<*>
        if ((row["tools"] ?: "null") !in listOf("null", emptyList<Any>()) || held.orEmpty().any(::calls)) {
            throw UserError("$where: the chat template cannot write tools here; pack it with `prge pack`")
        }
        val messages = held?.mapIndexed { i, it -> message(it, "$where, message ${i + 1}") }
        if (messages == null || null in messages) {
            throw UserError(
                "$where: \"messages\" must be a list of {\"role\": ..., \"content\": ...}, both text, as " +
                    "[{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]"
            )
        }
        val turns = messages.filterNotNull()
        val records = turns.indices.filter { turns[it].role == "assistant" }.map { i ->
            val (prompt, whole) = try {
                val whole = render(turns.take(i + 1))
                val asked = render(turns.take(i), reply = true)
                // Where it asks for a reply with more than stands before one, as the begin of a thought, what is there
                // counts. A space belongs to the word behind it.
                (if (whole.startsWith(asked)) asked else before(turns.take(i + 1)).trimEnd(' ')) to whole
            } catch (e: UserError) {
                throw UserError("$where: ${e.message}")
            }
            if (prompt == "" && i > 0) {
                throw UserError("$where: the chat template does not begin a turn as it asks for one")
            }
            // White space behind the end-of-turn token is the template's; the assistant does not write it.
            mapOf("prompt" to prompt, "answer" to strippedRight(whole.substring(prompt.length)))
        }
        return records.ifEmpty {
            throw UserError("$where: no message of the role assistant, so there is nothing to learn")
        }
    }

    private fun message(held: Any?, where: String): Message? {
        val fields = held as? Map<*, *> ?: return null
        val content = when (val content = fields["content"]) {
            is List<*> -> content.joinToString("") { part(it, where) }
            else -> content as? String ?: return null
        }
        return Message(fields["role"] as? String ?: return null, content)
    }

    private fun part(held: Any?, where: String): String {
        val fields = held as? Map<*, *> ?: emptyMap<Any, Any>()
        val text = fields["text"] as? String
        if (text != null && (fields["type"] ?: "text") == "text") return text
        throw UserError(
            "$where: a part of its content is of the type ${fields["type"]}; prge reads text: take such messages out"
        )
    }

    private fun calls(message: Any?): Boolean =
        (message as? Map<*, *>)?.get("tool_calls").let { it != null && it !is JsonNull && it != emptyList<Any>() }

    companion object {
        const val FILE = "chat.json"

        /**
         * The pieces of a program's chat template.
         *
         * @param manifest the program's, or that of `generate.pte` beside it.
         * @return null if the program takes no conversations, or there is no such file as the template has no pieces.
         * @throws UserError the file cannot be read, or is another program's.
         */
        fun read(file: File, manifest: String): Chat? {
            if (!file.isFile) return null
            val (pieces, program) = try {
                readJson(file.readText()) as Map<*, *> to readJson(manifest) as Map<*, *>
            } catch (e: IOException) {
                throw UserError("$file cannot be read: ${e.message}")
            } catch (e: Odd) {
                throw UserError("$file cannot be read: ${e.message}")
            } catch (e: ClassCastException) {
                throw UserError("$file cannot be read: it is no JSON object")
            }
            if (program["chat_template"] == "") return null
            val chat = try {
                Chat(pieces)
            } catch (e: RuntimeException) { // a field is missing, or of another type
                throw UserError("$file is damaged; export the program again")
            }
            if (chat.template != program["chat_template"] || chat.specialTokens != program["special_tokens"]) {
                throw UserError("$file is another program's; use the $FILE that was written beside the program")
            }
            return chat
        }
    }
}
