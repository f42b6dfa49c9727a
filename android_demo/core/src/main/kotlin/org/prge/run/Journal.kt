package org.prge.run

import java.io.File
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.channels.OverlappingFileLockException
import java.nio.file.StandardOpenOption.CREATE
import java.nio.file.StandardOpenOption.READ
import java.nio.file.StandardOpenOption.WRITE
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonArray
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import java.math.BigDecimal
import java.math.MathContext
import org.prge.UserError
import org.prge.files.LARGE
import org.prge.files.Odd
import org.prge.files.at
import org.prge.files.checkSize
import org.prge.files.crc32
import org.prge.files.dump
import org.prge.files.fields
import org.prge.files.flag
import org.prge.files.items
import org.prge.files.number
import org.prge.files.open
import org.prge.files.parseJson
import org.prge.files.readAt
import org.prge.files.reading
import org.prge.files.real
import org.prge.files.realOrNaN
import org.prge.files.utf8
import org.prge.files.whole
import org.prge.files.writeAt
import org.prge.files.writing
import org.prge.loop.Evaluation
import org.prge.loop.StepRecord

private const val MARK = ",\"crc\":\""
private val NINE = MathContext(9)

/**
 * A run's journal: one line of JSON for each step, with a checksum of its own. On the disk after [sync].
 *
 * It is this process's alone while it is open. Java has no `flock`, so the lock is a record lock, which the drivers in
 * other languages take too. It is lost when anything else in this process closes the file.
 *
 * @throws UserError it cannot be written, or a run goes on there already.
 */
internal class Journal(private val path: File) : AutoCloseable {
    private val file: FileChannel = writing(path) { open(path, READ, WRITE, CREATE) }
    private val ends = ArrayList<Long>()

    init {
        val locked = try {
            writing(path) { file.tryLock() } != null
        } catch (e: OverlappingFileLockException) { // another run of this process
            false
        }
        if (!locked) {
            file.close()
            throw UserError("$path is in use: another process trains there")
        }
    }

    /**
     * Reads the whole records. A last line without its end is none: a run that was cut off leaves it.
     *
     * @throws UserError it is damaged, or [each] found a record odd.
     */
    fun read(each: (JsonObject) -> Unit) {
        val data = reading(path) {
            checkSize(path, file.size(), LARGE)
            ByteArray(file.size().toInt()).also { file.readAt(0, ByteBuffer.wrap(it)) }
        }
        var at = 0
        while (true) {
            val end = (at until data.size).firstOrNull { data[it] == '\n'.code.toByte() } ?: return
            try {
                val row = record(data.copyOfRange(at, end))
                if (row.at("step").whole() != ends.size.toLong()) throw Odd("a step out of order")
                each(row)
            } catch (e: Odd) {
                throw UserError("$path is damaged at byte $at (record ${ends.size + 1}); what follows is no use")
            }
            ends += end + 1L
            at = end + 1
        }
    }

    private fun record(line: ByteArray): JsonObject {
        // One character for each byte.
        val mark = String(line, Charsets.ISO_8859_1).lastIndexOf(MARK)
        if (mark < 0) throw Odd("no checksum")
        val text = line.copyOf(mark + 1).also { it[mark] = '}'.code.toByte() }
        if (utf8(line.copyOfRange(mark, line.size)) != "$MARK${crc32(text)}\"}") throw Odd("another checksum")
        return parseJson(utf8(text)).fields()
    }

    /** Cuts off what is behind the first [count] of the records that were read. */
    fun keep(count: Int) = writing(path) {
        while (ends.size > count) ends.removeAt(ends.size - 1)
        file.truncate(ends.lastOrNull() ?: 0)
    }

    /** Adds a record. It outlives the process when this returns. */
    fun append(row: JsonObject) = writing(path) {
        val text = dump(row)
        val line = "${text.dropLast(1)}$MARK${crc32(text.toByteArray())}\"}\n".toByteArray()
        val begin = ends.lastOrNull() ?: 0
        file.writeAt(begin, ByteBuffer.wrap(line))
        ends += begin + line.size
    }

    fun sync() = writing(path) { file.force(true) }

    override fun close() = file.close()
}

/** A step as the journal has it. */
internal fun toJson(r: StepRecord): JsonObject = buildJsonObject {
    put("step", r.step)
    put("loss", number(r.loss))
    put("lr", number(r.lr))
    put("eps", number(r.eps))
    put("seed", r.seed)
    put("tokens", r.tokens)
    put("seconds", number(r.seconds))
    put("losses", buildJsonArray { r.losses.forEach { add(number(nineDigits(it))) } })
    put("examples", buildJsonArray { r.examples.forEach { add(JsonPrimitive(it)) } })
    put("backed_off", r.backedOff)
    r.dev?.let { put("dev", toJson(it)) }
    r.before?.let { put("before", toJson(it)) }
}

/** As many digits as tell float32s apart. */
private fun nineDigits(loss: Float): Double =
    if (loss.isFinite()) BigDecimal(loss.toDouble()).round(NINE).toDouble() else Double.NaN

private fun toJson(e: Evaluation): JsonObject = buildJsonObject {
    put("loss", number(e.loss))
    e.accuracy?.let { put("accuracy", it) }
}

/** @throws Odd a field is missing, or of another type. */
internal fun toRecord(row: JsonObject) = StepRecord(
    row.at("step").whole().toInt(), row.at("loss").realOrNaN(), row.at("lr").real(), row.at("eps").real(),
    row.at("seed").whole(Long.MAX_VALUE), row.at("tokens").whole(Long.MAX_VALUE), row.at("seconds").real(),
    row.at("losses").items().map { it.realOrNaN().toFloat() }.toFloatArray(),
    row.at("examples").items().map { it.whole().toInt() }, row.at("backed_off").flag(),
    row["dev"]?.let(::toEvaluation), row["before"]?.let(::toEvaluation),
)

private fun toEvaluation(row: JsonElement) =
    Evaluation(row.at("loss").realOrNaN(), row.fields()["accuracy"]?.real())
