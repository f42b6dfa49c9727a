package org.prge.tokenizer

import java.io.InputStream
import kotlinx.serialization.DeserializationStrategy
import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.builtins.ListSerializer
import kotlinx.serialization.builtins.MapSerializer
import kotlinx.serialization.builtins.serializer
import kotlinx.serialization.descriptors.SerialDescriptor
import kotlinx.serialization.encoding.CompositeDecoder
import kotlinx.serialization.encoding.Decoder
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.decodeFromStream
import org.prge.files.Odd

// A large tokenizer.json has 30 MB, and as a tree of objects many times that. So its vocabulary and its merges are
// taken from the stream one by one. All else in it is small.

/** What a tokenizer.json holds: its small fields, and the model's vocabulary and merges. */
internal class Reading private constructor() {
    private val fields = HashMap<String, JsonElement>()
    private val settings = HashMap<String, JsonElement>() // of the model
    private val vocabulary = Vocabulary()
    private val merges = Merges(vocabulary)

    /** The file, but for its model. */
    val file: Part get() = Part("", JsonObject(fields))

    /** The model that the file describes. */
    fun model(): Model {
        val part = Part("model", JsonObject(settings))
        return when (part.type) {
            "BPE" -> bpe(part)
            "WordPiece" -> {
                part.only("type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word")
                val longest = part.number("max_input_chars_per_word")
                WordPiece(vocabulary, part.text("unk_token"), part.text("continuing_subword_prefix"), longest)
            }
            else -> unknownModel(part.type)
        }
    }

    private fun bpe(part: Part): Model {
        part.only(
            "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
            "byte_fallback", "ignore_merges",
        )
        for (name in listOf("continuing_subword_prefix", "end_of_word_suffix")) {
            if (!part.optionalText(name).isNullOrEmpty()) unknown("model.$name")
        }
        if (part.given("dropout") != null) unknown("model.dropout")
        return Bpe(
            vocabulary, merges, part.optionalText("unk_token"), part.flag("fuse_unk", false),
            part.flag("byte_fallback", false), part.flag("ignore_merges", false),
        )
    }

    private inner class File : Fields() {
        override fun field(name: String, input: CompositeDecoder, i: Int) {
            if (name == "model") element(input, i, ModelFields()) else fields[name] = element(input, i, ANYTHING)
        }
    }

    private inner class ModelFields : Fields() {
        override fun field(name: String, input: CompositeDecoder, i: Int) {
            when (name) {
                "vocab" -> element(input, i, Tokens())
                "merges" -> element(input, i, Pairs())
                else -> settings[name] = element(input, i, ANYTHING)
            }
            val type = (settings["type"] as? JsonPrimitive)?.content
            if (type != null && type != "BPE" && type != "WordPiece") unknownModel(type)
        }
    }

    private inner class Tokens : Fields() {
        override fun field(name: String, input: CompositeDecoder, i: Int) =
            vocabulary.add(name, input.decodeIntElement(descriptor, i))
    }

    private inner class Pairs : DeserializationStrategy<Unit> {
        override val descriptor = ListSerializer(ANYTHING).descriptor

        override fun deserialize(decoder: Decoder) = decoder.structure(descriptor) { input, i ->
            when (val merge = input.decodeSerializableElement(descriptor, i, ANYTHING)) {
                is JsonArray -> merges.add(merge.map { (it as? JsonPrimitive)?.textOrNull() })
                // Older files have "left right", and a first line that is none.
                is JsonPrimitive -> if (!merge.content.startsWith("#version")) merges.add(merge.content.split(" "))
                is JsonObject -> merges.add(emptyList())
            }
        }
    }

    companion object {
        /** Reads a tokenizer.json. Throws [Odd], and what kotlinx.serialization throws where it is no JSON. */
        @OptIn(ExperimentalSerializationApi::class)
        fun of(stream: InputStream) = Reading().also { Json.decodeFromStream(it.File(), stream) }

        private fun unknownModel(type: String): Nothing = unknown("model of the type \"$type\"")
    }
}

private fun JsonPrimitive.textOrNull() = if (isString) content else null

private val ANYTHING = JsonElement.serializer()

/** Reads an object field by field, in the order in which they stand. */
private abstract class Fields : DeserializationStrategy<Unit> {
    override val descriptor = MapSerializer(String.serializer(), ANYTHING).descriptor

    /** Takes the value that stands behind a name. */
    abstract fun field(name: String, input: CompositeDecoder, i: Int)

    protected fun <T> element(input: CompositeDecoder, i: Int, of: DeserializationStrategy<T>): T =
        input.decodeSerializableElement(descriptor, i, of)

    override fun deserialize(decoder: Decoder) = decoder.structure(descriptor) { input, i ->
        val name = input.decodeStringElement(descriptor, i)
        field(name, input, input.decodeElementIndex(descriptor))
    }
}

private inline fun Decoder.structure(descriptor: SerialDescriptor, element: (CompositeDecoder, Int) -> Unit) {
    val input = beginStructure(descriptor)
    while (true) {
        val i = input.decodeElementIndex(descriptor)
        if (i == CompositeDecoder.DECODE_DONE) break
        element(input, i)
    }
    input.endStructure(descriptor)
}
