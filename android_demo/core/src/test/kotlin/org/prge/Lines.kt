package org.prge

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import org.prge.data.Example
import org.prge.examples.Encoder
import org.prge.examples.Message
import org.prge.examples.Source
import org.prge.program.Manifest
import org.prge.program.card
import org.prge.tokenizer.TextStream
import org.prge.tokenizer.Tokenizer
import java.io.File

/** Answers lines of JSON, so that tests in Python can compare. A line that fails gets `error`, the user's sentence. */
fun main() {
    var held: Pair<String, Tokenizer>? = null
    fun tokenizer(path: String) =
        held?.takeIf { it.first == path }?.second ?: Tokenizer.read(File(path)).also { held = path to it }

    for (line in System.`in`.bufferedReader().lineSequence()) {
        val asked = Json.parseToJsonElement(line) as JsonObject
        fun text(name: String) = asked.getValue(name).jsonPrimitive.content
        fun flag(name: String) = asked[name]?.jsonPrimitive?.boolean ?: true
        val answer = try {
            val (name, ask) = asked.entries.first()
            when (name) {
                "encode" -> tokenizer(text("tokenizer")).let { known ->
                    ask.jsonArray.map { numbers(known.encode(it.jsonPrimitive.content, flag("special"))) }
                }
                "decode" -> tokenizer(text("tokenizer")).let { known ->
                    ask.jsonArray.map { JsonPrimitive(known.decode(numbers(it), flag("special"))) }
                }
                "stream" -> ask.jsonArray.map { ids ->
                    val stream = TextStream(tokenizer(text("tokenizer")))
                    JsonArray(numbers(ids).map { JsonPrimitive(stream.next(it)) })
                }
                "examples" -> Encoder.of(text("manifest"), File(text("folder")), flag("truncate"))
                    .examples(File(ask.jsonPrimitive.content)).map(::described)
                "told" -> Encoder.of(text("manifest"), File(text("folder")), flag("truncate")).run {
                    examples(File(ask.jsonPrimitive.content))
                    told.map(::JsonPrimitive)
                }
                "divided" -> Source(File(ask.jsonPrimitive.content), seed = asked.getValue("seed").jsonPrimitive.int)
                    .read(Encoder.of(text("manifest"), File(text("folder")), flag("truncate")))
                    .run { listOf(train, dev).map { JsonArray(it.map(::described)) } + JsonPrimitive(dropped) }
                "chat" -> {
                    val messages = ask.jsonArray.map { turn -> turn.jsonArray.map { it.jsonPrimitive.content } }
                        .map { (role, content) -> Message(role, content) }
                    val chat = Encoder.of(text("manifest"), File(text("folder"))).form.chat
                    listOf(JsonPrimitive(chat.render(messages, flag("reply"))))
                }
                "card" -> listOf(JsonPrimitive(card(Manifest.read(ask.jsonPrimitive.content, "the program"))))
                else -> error(name)
            }.let { JsonObject(mapOf("answer" to JsonArray(it))) }
        } catch (e: UserError) {
            JsonObject(mapOf("error" to JsonPrimitive(e.message)))
        } catch (e: Throwable) {
            JsonObject(mapOf("crash" to JsonPrimitive(e.stackTraceToString())))
        }
        println(answer)
    }
}

internal fun described(e: Example): JsonElement = JsonObject(
    mapOf("label" to JsonPrimitive(e.label), "targets" to JsonPrimitive(e.targets), "tokens" to numbers(e.tokens)) +
        if (e.candidates.isEmpty()) emptyMap() else mapOf("candidates" to JsonArray(e.candidates.map(::described))),
)

private fun numbers(ids: IntArray): JsonElement = JsonArray(ids.map(::JsonPrimitive))

private fun numbers(ids: JsonElement): IntArray = ids.jsonArray.map { it.jsonPrimitive.int }.toIntArray()
