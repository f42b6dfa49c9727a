package org.prge.examples

import java.math.BigDecimal
import java.math.BigInteger
import java.math.MathContext
import java.math.RoundingMode
import kotlin.math.abs
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/**
 * A row: what it holds by column. Texts are a [String]. JSON's lists and objects are a [List] and a [Map], in which
 * whatever is no text, list or object is a [JsonPrimitive].
 */
typealias Record = Map<String, Any>

/** Why a text is no JSON. */
internal class NotJson(message: String) : Exception(message)

/** A JSON text as texts, lists and objects. */
internal fun parseJson(text: String): Any = try {
    plain(Json.parseToJsonElement(text))
} catch (e: SerializationException) {
    throw NotJson(e.message.orEmpty().lineSequence().first())
} catch (e: StackOverflowError) {
    throw NotJson("nested too deep")
}

private fun plain(value: JsonElement): Any = when (value) {
    is JsonObject -> value.entries.associate { (name, held) -> checked(name) to plain(held) }
    is JsonArray -> value.map(::plain)
    is JsonPrimitive -> if (value.isString) checked(value.content) else value.also(::checkWord)
}

private val WORD = Regex("true|false|null|NaN|-?Infinity|-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

/** The library takes any word without quotes, as `tru`. */
private fun checkWord(value: JsonPrimitive) {
    if (!WORD.matches(value.content)) throw NotJson("${value.content.take(60)} is no value")
}

private fun checked(text: String): String =
    if (isText(text)) text else throw NotJson("half a surrogate pair is no character")

/** Whether a text has only whole characters, so that it can be written in UTF-8. */
internal fun isText(text: String): Boolean {
    var i = 0
    while (i < text.length) {
        val character = text.codePointAt(i)
        if (character in 0xD800..0xDFFF) return false
        i += Character.charCount(character)
    }
    return true
}

/** A row with its numbers and truth values as text. Lists and objects stay what they are. */
internal fun asText(row: Map<*, *>): Record = row.entries.associate { (name, value) ->
    name as String to if (value is JsonPrimitive) spelled(value) else value!!
}

/** A number as Python spells it: label names are compared as texts. */
private fun spelled(value: JsonPrimitive): String = when {
    value is JsonNull || value.content == "NaN" -> "" // missing, as an empty cell of a table is
    value.content in listOf("true", "false", "Infinity", "-Infinity") -> value.content
    value.content.none { it in ".eE" } -> BigInteger(value.content).toString()
    else -> spelled(value.content.toDouble())
}

private val WAYS = listOf(RoundingMode.HALF_EVEN, RoundingMode.UP, RoundingMode.DOWN)

private fun spelled(number: Double): String {
    if (number.isInfinite()) return if (number > 0) "Infinity" else "-Infinity"
    if (number == 0.0) return if (1 / number < 0) "-0.0" else "0.0"
    // The fewest digits that come back to the same number, and of those the nearest. Java's spelling has more at times.
    val exact = BigDecimal(number)
    val short = (1..17).asSequence().flatMap { digits -> WAYS.map { exact.round(MathContext(digits, it)) } }
        .first { it.toDouble() == number }.stripTrailingZeros()
    val exponent = short.precision() - short.scale() - 1
    if (exponent in -4..15) return short.toPlainString().let { if ('.' in it) it else "$it.0" }
    val digits = short.unscaledValue().abs().toString()
    val sign = if (number < 0) "-" else ""
    val fraction = if (digits.length > 1) "." + digits.drop(1) else ""
    return "$sign${digits[0]}${fraction}e${if (exponent < 0) "-" else "+"}${"${abs(exponent)}".padStart(2, '0')}"
}
