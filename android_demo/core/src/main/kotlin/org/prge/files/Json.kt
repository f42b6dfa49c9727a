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

/**
 * Reads JSON.
 *
 * @throws Odd it is none, or it is nested deeper than any file of ours, which would overflow the stack.
 */
internal fun parseJson(text: String): JsonElement {
    checkDepth(text)
    val parsed = try {
        Json.parseToJsonElement(text)
    } catch (e: SerializationException) {
        throw Odd("it is not JSON")
    }
    return parsed.also(::checkWords)
}

private fun checkDepth(text: String) {
    var depth = 0
    var at = 0
    var quoted = false
    while (at < text.length) {
        when (text[at]) {
            '\\' -> if (quoted) at++
            '"' -> quoted = !quoted
            '{', '[' -> if (!quoted && ++depth > DEEPEST) throw Odd("it is nested too deep")
            '}', ']' -> if (!quoted) depth--
        }
        at++
    }
}

/** The library takes any word without quotes, as `tru`. */
private fun checkWords(json: JsonElement) {
    when (json) {
        is JsonObject -> json.values.forEach(::checkWords)
        is JsonArray -> json.forEach(::checkWords)
        is JsonNull -> Unit
        is JsonPrimitive ->
            if (!json.isString && json.content != "true" && json.content != "false" && !NUMBER.matches(json.content))
                throw Odd("it is not JSON")
    }
}

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
