package org.prge.files

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder.LITTLE_ENDIAN
import java.util.zip.CRC32
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonArray
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import org.prge.UserError

private const val ZEROS = "00000000"
private val PLACE = Regex("\"crc\":\"([0-9a-f]{8})\"")

/** A CRC-32 in hex. */
internal fun hex(crc: CRC32): String = "%08x".format(crc.value)

internal fun crc32(vararg parts: ByteArray): String = hex(CRC32().apply { parts.forEach { update(it) } })

/** Where the eight digits of the checksum stand in the text of a header; null where there are none. */
internal fun crcPlace(header: String): Int? = PLACE.find(header)?.groups?.get(1)?.range?.first

/** Bytes of numbers, little-endian. */
internal fun bytesOf(numbers: FloatArray): ByteArray =
    ByteArray(4 * numbers.size).also { ByteBuffer.wrap(it).order(LITTLE_ENDIAN).asFloatBuffer().put(numbers) }

internal fun bytesOf(numbers: IntArray): ByteArray =
    ByteArray(4 * numbers.size).also { ByteBuffer.wrap(it).order(LITTLE_ENDIAN).asIntBuffer().put(numbers) }

/** A vector of a safetensors file: the name of its dtype, and its bytes. */
internal class Vector(val type: String, val bytes: ByteArray) {
    fun floats() = FloatArray(bytes.size / 4).also { buffer().asFloatBuffer().get(it) }

    fun ints() = IntArray(bytes.size / 4).also { buffer().asIntBuffer().get(it) }

    private fun buffer() = ByteBuffer.wrap(bytes).order(LITTLE_ENDIAN)
}

internal fun vector(numbers: FloatArray) = Vector("F32", bytesOf(numbers))

internal fun vector(numbers: IntArray) = Vector("I32", bytesOf(numbers))

/** What a safetensors file says of one tensor. */
internal fun described(type: String, shape: List<Long>, from: Long, to: Long): JsonObject = buildJsonObject {
    put("dtype", type)
    put("shape", buildJsonArray { shape.forEach { add(JsonPrimitive(it)) } })
    put("data_offsets", buildJsonArray { add(JsonPrimitive(from)); add(JsonPrimitive(to)) })
}

/** The bytes of a safetensors file before its tensors, with zeros for the checksum. */
internal fun checkedHeader(metadata: Map<String, String>, tensors: Map<String, JsonObject>): ByteArray {
    val texts = (metadata + ("crc" to ZEROS)).mapValues { JsonPrimitive(it.value) }
    val text = dump(JsonObject(mapOf<String, JsonElement>("__metadata__" to JsonObject(texts)) + tensors))
    val header = text.padEnd((text.length + 7) / 8 * 8).toByteArray(Charsets.US_ASCII)
    return ByteBuffer.allocate(8 + header.size).order(LITTLE_ENDIAN).putLong(header.size.toLong()).put(header).array()
}

/** The bytes of a safetensors file of vectors, with a checksum of all of them in its metadata. */
internal fun checked(metadata: Map<String, String>, vectors: Map<String, Vector>): ByteArray {
    var end = 0L
    val tensors = vectors.mapValues { (_, one) ->
        val from = end
        end += one.bytes.size
        described(one.type, listOf(one.bytes.size / 4L), from, end)
    }
    val header = checkedHeader(metadata, tensors)
    val place = crcPlace(String(header, Charsets.ISO_8859_1))!!
    val bodies = vectors.values.map { it.bytes }
    crc32(header, *bodies.toTypedArray()).toByteArray().copyInto(header, place)
    val all = ByteBuffer.allocate(Math.toIntExact(header.size + end)).put(header)
    bodies.forEach { all.put(it) }
    return all.array()
}

/**
 * Replaces a safetensors file of float32 tensors, with a checksum of all of it in its metadata. One tensor at a time is
 * in memory. An interrupted write leaves the file that was there.
 *
 * @param shapes of the tensors by name, in the file's order.
 * @param numbers gives a tensor.
 * @throws UserError it cannot be written.
 */
internal fun replaceChecked(
    file: File, metadata: Map<String, String>, shapes: Map<String, List<Int>>, numbers: (String) -> FloatArray,
) = writing(file) {
    var end = 0L
    val head = checkedHeader(
        metadata,
        shapes.mapValues { (_, shape) ->
            val from = end
            val sizes = shape.map { it.toLong() }
            end += 4 * sizes.reduce(Long::times)
            described("F32", sizes, from, end)
        },
    )
    val crc = CRC32().apply { update(head) }
    val scratch = scratchOf(file)
    anew(scratch).use { to ->
        var at = head.size.toLong()
        for (name in shapes.keys) {
            val bytes = bytesOf(numbers(name))
            crc.update(bytes)
            to.writeAt(at, ByteBuffer.wrap(bytes))
            at += bytes.size
        }
        hex(crc).toByteArray().copyInto(head, crcPlace(String(head, Charsets.ISO_8859_1))!!)
        to.writeAt(0, ByteBuffer.wrap(head))
        to.force(true)
    }
    rename(scratch, file)
}

/** A safetensors file of vectors that all have one dtype. */
internal class Tensors(val metadata: Map<String, String>, val vectors: Map<String, Vector>) {
    fun text(name: String): String = metadata[name] ?: ""
}

/**
 * Reads a safetensors file of vectors. A checksum in it is compared before anything else is read.
 *
 * @param what it should be, for the messages.
 * @param type of its vectors: F32 or I32.
 * @param required whether a file without a checksum is refused.
 * @throws UserError it cannot be read, is damaged, or something else.
 */
internal fun readChecked(file: File, what: String, type: String, required: Boolean = true): Tensors {
    val all = readBounded(file, LARGE)
    val claimed = if (all.size < 8) 0 else ByteBuffer.wrap(all).order(LITTLE_ENDIAN).getLong(0)
    val begin = minOf(all.size, 8)
    val length = if (claimed in 0..all.size - begin) claimed.toInt() else all.size - begin
    val place = crcPlace(String(all, begin, length, Charsets.ISO_8859_1))?.plus(begin)
    if (place != null) {
        val crc = String(all, place, 8, Charsets.ISO_8859_1)
        ZEROS.toByteArray().copyInto(all, place)
        if (crc32(all) != crc) throw UserError("$file is damaged: its checksum does not fit its content")
    } else if (required) {
        throw UserError("$file is damaged, or not $what: it has no checksum")
    }
    try {
        if (length.toLong() != claimed) throw Odd("it ends too early")
        return tensors(parseJson(utf8(all.copyOfRange(begin, begin + length))), all, begin + length, type)
    } catch (e: Odd) {
        throw UserError("$file is not $what: ${e.message}")
    }
}

private fun tensors(header: JsonElement, all: ByteArray, data: Int, type: String): Tensors {
    val metadata = header.fields()["__metadata__"]?.fields().orEmpty().mapValues { it.value.text() }
    val parts = mutableListOf<Pair<Long, Long>>()
    val vectors = (header.fields() - "__metadata__").mapValues { (name, tensor) ->
        val shape = tensor.at("shape").items()
        val offsets = tensor.at("data_offsets").items()
        if (tensor.at("dtype").text() != type || shape.size != 1 || offsets.size != 2)
            throw Odd("its tensors are not vectors of $type")
        val to = offsets[1].whole((all.size - data).toLong())
        val from = offsets[0].whole(to)
        if (from + 4 * shape[0].whole() != to) throw Odd("the shape of $name is not that of its data")
        parts += from to to
        Vector(type, all.copyOfRange(data + from.toInt(), data + to.toInt()))
    }
    var end = 0L
    for ((from, to) in parts.sortedWith(compareBy({ it.first }, { it.second }))) {
        if (from != end) throw Odd("its tensors do not follow each other")
        end = to
    }
    if (data + end != all.size.toLong()) throw Odd("its tensors do not fill it")
    return Tensors(metadata, vectors)
}
