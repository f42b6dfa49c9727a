package org.prge.data

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder.LITTLE_ENDIAN
import java.nio.IntBuffer
import java.nio.channels.FileChannel
import java.nio.channels.OverlappingFileLockException
import java.nio.file.Files
import java.nio.file.StandardOpenOption.CREATE
import java.nio.file.StandardOpenOption.READ
import java.nio.file.StandardOpenOption.WRITE
import java.nio.file.attribute.BasicFileAttributes
import java.util.zip.CRC32
import org.prge.UserError
import org.prge.files.checkedHeader
import org.prge.files.crcPlace
import org.prge.files.described
import org.prge.files.hex
import org.prge.files.open
import org.prge.files.readAt
import org.prge.files.reading
import org.prge.files.rename
import org.prge.files.scratchOf
import org.prge.files.writeAt
import org.prge.files.writing
import org.prge.program.Manifest

private const val BLOCK = 1 shl 20

/** A row, and its place in the file, in tokens. */
private class Placed(val row: Example, val at: Long)

/** Every token row once, in the order of first occurrence, one behind the other. */
private fun distinct(examples: Examples): List<Placed> {
    val seen = HashSet<IntBuffer>()
    var at = 0L
    return examples.rows.filter { seen.add(IntBuffer.wrap(it.tokens)) }.map { row ->
        Placed(row, at).also { at += row.tokens.size }
    }
}

private fun tokensOf(rows: List<Placed>) = rows.last().at + rows.last().row.tokens.size

/** Bytes that the hidden states of some examples take. */
internal fun bytesOfHidden(examples: Examples, m: Manifest): Long = 4L * m.hidden * tokensOf(distinct(examples))

/** All of the file before the states, with zeros for the checksum. */
private fun header(m: Manifest, examples: Examples, tokens: Long): ByteArray {
    val metadata = mapOf("hidden" to "1", "frozen_sha256" to m.frozenSha256, "examples" to examples.crc)
    val shape = listOf(tokens, m.hidden.toLong())
    return checkedHeader(metadata, mapOf("hidden" to described("F32", shape, 0, 4 * tokens * m.hidden)))
}

private fun placeIn(head: ByteArray) = crcPlace(String(head, Charsets.ISO_8859_1))!!

/** CRC-32 of a file that begins with [head], whatever stands in its place. */
private fun checksum(file: FileChannel, head: ByteArray): String {
    val crc = CRC32().apply { update(head) }
    val block = ByteBuffer.allocate(BLOCK)
    var at = head.size.toLong()
    while (at < file.size()) {
        block.clear().limit(minOf(BLOCK.toLong(), file.size() - at).toInt())
        file.readAt(at, block)
        crc.update(block.array(), 0, block.position())
        at += block.position()
    }
    return hex(crc)
}

/** A row without the padding at its end. */
private fun held(tokens: IntArray, pad: Int): IntBuffer =
    IntBuffer.wrap(tokens, 0, tokens.indexOfLast { it != pad } + 1)

/** The hidden states of all rows of some examples, in a file. They stay there; only what a step needs is read. */
class Hidden private constructor(
    private val path: File,
    private val file: FileChannel,
    private val begin: Int,
    private val m: Manifest,
    rows: List<Placed>,
) : AutoCloseable {
    private class Place(val at: Long, val count: Int)

    private val places = HashMap<IntBuffer, Place>().apply {
        for (placed in rows) {
            // Of rows that differ in padding tokens at their ends, the longest has the states of all.
            val key = held(placed.row.tokens, m.padToken)
            val size = placed.row.tokens.size
            if ((get(key)?.count ?: 0) < size) put(key, Place(placed.at, size))
        }
    }

    /**
     * The hidden states f32[n, T, H] of n rows, zeros at the padding; null if one is not there.
     *
     * @param length T.
     */
    fun read(rows: List<Example>, length: Int): FloatArray? = reading(path) {
        val found = FloatArray(rows.size * length * m.hidden)
        for ((row, e) in rows.withIndex()) {
            val place = places[held(e.tokens, m.padToken)] ?: return null
            val count = minOf(place.count, length) * m.hidden
            val bytes = ByteBuffer.allocate(4 * count).order(LITTLE_ENDIAN)
            file.readAt(begin + 4 * place.at * m.hidden, bytes)
            bytes.rewind()
            bytes.asFloatBuffer().get(found, row * length * m.hidden, count)
        }
        return found
    }

    override fun close() = file.close()

    companion object {
        /**
         * Opens a file; null where it is not whole, or not of these examples and this program. All of it is read once.
         */
        fun open(path: File, m: Manifest, examples: Examples): Hidden? {
            val rows = distinct(examples)
            val tokens = tokensOf(rows)
            val head = header(m, examples, tokens)
            val file = try {
                open(path, READ)
            } catch (e: IOException) {
                return null
            }
            val whole = try {
                file.size() == head.size + 4 * tokens * m.hidden && isWhole(file, head)
            } catch (e: IOException) {
                false
            }
            if (whole) return Hidden(path, file, head.size, m, rows)
            file.close()
            return null
        }

        /** Whether a file begins with [head], but for the checksum, and has the checksum of its content there. */
        private fun isWhole(file: FileChannel, head: ByteArray): Boolean {
            val place = placeIn(head)
            val there = ByteArray(head.size).also { file.readAt(0, ByteBuffer.wrap(it)) }
            val digits = String(there, place, 8, Charsets.ISO_8859_1)
            head.copyInto(there, place, place, place + 8)
            return there.contentEquals(head) && checksum(file, head) == digits
        }

        /**
         * Computes and writes them: the rows by length, as many as an execution takes, so that the bits depend on the
         * examples alone.
         *
         * @param states hidden states f32[n, T, H] of n rows.
         * @param progress hears how many tokens are done, and of how many.
         * @throws UserError it cannot be written, or another process writes it.
         */
        fun write(
            path: File, m: Manifest, examples: Examples,
            states: (List<Example>) -> FloatArray, progress: (Long, Long) -> Unit,
        ) = writing(path) {
            val scratch = scratchOf(path)
            val key = Files.newByteChannel(scratch.toPath(), WRITE, CREATE).use { inode(scratch) }
            open(scratch, READ, WRITE).use { file ->
                lock(file, path)
                // The other process may have renamed it since it was opened here.
                if (key == null || inode(scratch) != key) throw written(path)
                try {
                    fill(file, path, m, examples, states, progress)
                    rename(scratch, path)
                } catch (e: Throwable) { // it may hold gigabytes
                    scratch.delete()
                    throw e
                }
            }
        }

        private fun fill(
            file: FileChannel, path: File, m: Manifest, examples: Examples,
            states: (List<Example>) -> FloatArray, progress: (Long, Long) -> Unit,
        ) {
            val rows = distinct(examples)
            val all = tokensOf(rows)
            val head = header(m, examples, all)
            file.truncate(0)
            // A full disk is found now, and not after minutes. Java cannot reserve the blocks.
            if (path.absoluteFile.parentFile.usableSpace < head.size + 4 * all * m.hidden)
                throw IOException("No space left on device")
            file.writeAt(0, ByteBuffer.wrap(head))
            var done = 0L
            for (part in rows.sortedBy { it.row.tokens.size }.chunked(m.frozenRows)) {
                val found = states(part.map { it.row })
                val length = found.size / part.size
                for ((i, placed) in part.withIndex()) {
                    val count = placed.row.tokens.size * m.hidden
                    val bytes = ByteBuffer.allocate(4 * count).order(LITTLE_ENDIAN)
                    bytes.asFloatBuffer().put(found, i * length, count)
                    file.writeAt(head.size + 4 * placed.at * m.hidden, bytes)
                    done += placed.row.tokens.size
                }
                progress(done, all)
            }
            file.writeAt(placeIn(head).toLong(), ByteBuffer.wrap(checksum(file, head).toByteArray()))
            file.force(true)
        }

        private fun lock(file: FileChannel, path: File) = try {
            file.tryLock() ?: throw written(path)
        } catch (e: OverlappingFileLockException) { // another thread's
            throw written(path)
        }

        private fun inode(file: File): Any? = try {
            Files.readAttributes(file.toPath(), BasicFileAttributes::class.java).fileKey()
        } catch (e: IOException) {
            null
        }

        private fun written(path: File) =
            UserError("$path is being written by another process; wait for it, and run this again")
    }
}
