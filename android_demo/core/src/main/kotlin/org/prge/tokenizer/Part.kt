package org.prge.tokenizer

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.intOrNull
import org.prge.files.Odd

/**
 * An object of tokenizer.json. Whatever is not as expected throws [Odd], with the object's place.
 *
 * @property place where it stands, as `normalizer.normalizers`; empty for the whole file.
 */
internal class Part(val place: String, element: JsonElement) {
    private val held = element as? JsonObject ?: throw Odd("its ${place.ifEmpty { "content" }} is no JSON object")

    val type: String get() = text("type")

    /** Refuses fields of other names: they might ask for something that this reader would not do. */
    fun only(vararg names: String): Part {
        for (name in held.keys - names.toSet()) if (held[name] != JsonNull) unknown(path(name))
        return this
    }

    fun text(name: String): String =
        (held[name] as? JsonPrimitive)?.takeIf { it.isString }?.content ?: odd(name, "a text")

    fun optionalText(name: String): String? = given(name)?.let { text(name) }

    fun number(name: String): Int =
        (held[name] as? JsonPrimitive)?.takeIf { !it.isString }?.intOrNull ?: odd(name, "a whole number")

    fun flag(name: String): Boolean =
        (held[name] as? JsonPrimitive)?.takeIf { !it.isString }?.booleanOrNull ?: odd(name, "true or false")

    fun flag(name: String, default: Boolean): Boolean = if (given(name) == null) default else flag(name)

    /** A text of one character. */
    fun sign(name: String): String =
        text(name).also { if (it.codePointCount(0, it.length) != 1) odd(name, "one character") }

    inline fun <reified T : Enum<T>> choice(name: String): T =
        enumValues<T>().find { it.name == text(name) } ?: unknown("${path(name)} \"${text(name)}\"")

    fun list(name: String): List<JsonElement> = held[name] as? JsonArray ?: odd(name, "a list")

    fun parts(name: String): List<Part> = list(name).map { Part(path(name), it) }

    fun part(name: String): Part = Part(path(name), given(name) ?: odd(name, "an object"))

    fun given(name: String): JsonElement? = held[name]?.takeIf { it != JsonNull }

    fun path(name: String) = if (place.isEmpty()) name else "$place.$name"

    private fun odd(name: String, kind: String): Nothing = throw Odd("its ${path(name)} is not $kind")
}

/** Refuses something that a tokenizer.json asks for. */
internal fun unknown(what: String): Nothing =
    throw Odd("its $what is unknown to this reader; `prge pack` encodes examples with any tokenizer")
