package org.prge.examples

import java.math.BigInteger
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import org.prge.files.parseJson
import org.prge.files.spelled

/**
 * A row: what it holds by column. Texts are a [String]. JSON's lists and objects are a [List] and a [Map], in which
 * whatever is no text, list or object is a [JsonPrimitive].
 */
typealias Record = Map<String, Any>

/**
 * A JSON text as texts, lists and objects.
 *
 * @throws Odd it is none.
 */
internal fun readJson(text: String): Any = plain(parseJson(text, loose = true))

private fun plain(value: JsonElement): Any = when (value) {
    is JsonObject -> value.mapValues { plain(it.value) }
    is JsonArray -> value.map(::plain)
    is JsonPrimitive -> if (value.isString) value.content else value
}

/** A row with its numbers and truth values as text. Lists and objects stay what they are. */
internal fun asText(row: Map<*, *>): Record = row.entries.associate { (name, value) ->
    name as String to if (value is JsonPrimitive) spelled(value) else value!!
}

/** A number as Python spells it: label names are compared as texts. */
internal fun spelled(value: JsonPrimitive): String = when {
    value is JsonNull || value.content == "NaN" -> "" // missing, as an empty cell of a table is
    value.content in listOf("true", "false", "Infinity", "-Infinity") -> value.content
    value.content.none { it in ".eE" } -> BigInteger(value.content).toString()
    else -> spelled(value.content.toDouble())
}
