package org.prge.files

import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** What is odd about a file's content. Who reads the file makes a sentence for the user of it. */
internal class Odd(what: String) : IllegalArgumentException(what)

private const val DEEPEST = 64
private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
private val NO_NUMBER = setOf("NaN", "Infinity", "-Infinity")

/**
 * Reads JSON.
 *
 * @param loose whether NaN and the infinities are numbers, as they are to Python's json module.
 * @throws Odd it is none, or it is nested deeper than any file of ours, which would overflow the stack.
 */
internal fun parseJson(text: String, loose: Boolean = false): JsonElement {
    checkText(text)
    val parsed = try {
        Json.parseToJsonElement(text)
    } catch (e: SerializationException) {
        throw Odd(e.message.orEmpty().lineSequence().first().ifEmpty { "it is not JSON" })
    }
    return parsed.also { checkWords(it, loose) }
}

/** The library takes text of any depth, control characters in quotes, and more behind the end of a list. */
private fun checkText(text: String) {
    var depth = 0
    var at = 0
    var quoted = false
    var ended = false
    while (at < text.length) {
        val letter = text[at]
        if (quoted && letter < ' ') throw Odd("there is a control character at $at")
        if (ended && letter !in " \t\n\r") throw Odd("there is more behind its end, at $at")
        when (letter) {
            '\\' -> if (quoted) at++
            '"' -> quoted = !quoted
            '{', '[' -> if (!quoted && ++depth > DEEPEST) throw Odd("it is nested too deep")
            '}', ']' -> if (!quoted) ended = --depth == 0
        }
        at++
    }
}

/** The library takes any word without quotes, as `tru`, and half a surrogate pair, which is no text. */
private fun checkWords(json: JsonElement, loose: Boolean) {
    when (json) {
        is JsonObject -> json.forEach { (name, value) ->
            checkWhole(name)
            checkWords(value, loose)
        }
        is JsonArray -> json.forEach { checkWords(it, loose) }
        is JsonNull -> Unit
        is JsonPrimitive -> {
            val word = json.content
            if (json.isString) checkWhole(word)
            else if (word != "true" && word != "false" && !NUMBER.matches(word) && !(loose && word in NO_NUMBER))
                throw Odd("${word.take(60)} is no value")
        }
    }
}

private fun checkWhole(text: String) {
    if (!isText(text)) throw Odd("half a surrogate pair is no character")
}

/** Whether a text has only whole characters, so that it can be written in UTF-8. */
internal fun isText(text: String) = Charsets.UTF_8.newEncoder().canEncode(text)

/** Spells JSON as the other drivers do: without spaces, and in ASCII. */
internal fun dump(json: JsonElement): String {
    val text = json.toString()
    if (text.all { it.code < 0x7f }) return text
    return buildString { for (c in text) if (c.code < 0x80) append(c) else append("\\u%04x".format(c.code)) }
}

/** JSON has null for a number that is not finite. */
internal fun number(value: Double): JsonPrimitive = if (value.isFinite()) JsonPrimitive(value) else JsonNull

internal fun JsonElement.at(name: String): JsonElement = fields()[name] ?: throw Odd("it has no $name")

internal fun JsonElement.fields(): JsonObject = this as? JsonObject ?: throw Odd("${short()} is no object")

internal fun JsonElement.items(): JsonArray = this as? JsonArray ?: throw Odd("${short()} is no list")

internal fun JsonElement.text(): String =
    (this as? JsonPrimitive)?.takeIf { it.isString }?.content ?: throw Odd("${short()} is no text")

/** null for JSON's null. */
internal fun JsonElement.textOrNull(): String? = if (this is JsonNull) null else text()

internal fun JsonElement.flag(): Boolean = when (bare()) {
    "true" -> true
    "false" -> false
    else -> throw Odd("${short()} is neither true nor false")
}

/** A finite number. */
internal fun JsonElement.real(): Double =
    bare()?.toDoubleOrNull()?.takeIf { it.isFinite() } ?: throw Odd("${short()} is no number")

/** As [real], but NaN for JSON's null. */
internal fun JsonElement.realOrNaN(): Double = if (this is JsonNull) Double.NaN else real()

/** A whole number from 0 to [most]. */
internal fun JsonElement.whole(most: Long = Int.MAX_VALUE.toLong()): Long {
    val found = bare()?.toLongOrNull()
    if (found == null || found < 0 || found > most) throw Odd("${short()} is out of bounds")
    return found
}

private fun JsonElement.bare(): String? = (this as? JsonPrimitive)?.takeIf { !it.isString && it !is JsonNull }?.content

internal fun JsonElement.short(): String = dump(this).take(60)
