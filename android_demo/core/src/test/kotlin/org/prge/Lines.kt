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
import org.prge.tokenizer.TextStream
import org.prge.tokenizer.Tokenizer
import java.io.File

/** Answers lines of JSON, so that tests in Python can compare. A line that fails gets `error`, the user's sentence. */
fun main() {
    var held: Pair<String, Tokenizer>? = null
    fun tokenizer(path: String) =
        held?.takeIf { it.first == path }?.second ?: Tokenizer.read(File(path)).also { held = path to it }

    for (line in generateSequence(::readLine)) {
        val asked = Json.parseToJsonElement(line) as JsonObject
        fun text(name: String) = asked.getValue(name).jsonPrimitive.content
        val special = asked["special"]?.jsonPrimitive?.boolean ?: true
        val answer = try {
            val (name, ask) = asked.entries.first()
            val known = tokenizer(text("tokenizer"))
            when (name) {
                "encode" -> ask.jsonArray.map { numbers(known.encode(it.jsonPrimitive.content, special)) }
                "decode" -> ask.jsonArray.map { JsonPrimitive(known.decode(numbers(it), special)) }
                "stream" -> ask.jsonArray.map { ids ->
                    val stream = TextStream(known)
                    JsonArray(numbers(ids).map { JsonPrimitive(stream.next(it)) })
                }
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

private fun numbers(ids: IntArray): JsonElement = JsonArray(ids.map(::JsonPrimitive))

private fun numbers(ids: JsonElement): IntArray = ids.jsonArray.map { it.jsonPrimitive.int }.toIntArray()
