package org.prge.files

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.charset.CharacterCodingException
import java.nio.file.AccessDeniedException
import java.nio.file.FileAlreadyExistsException
import java.nio.file.FileSystemException
import java.nio.file.Files
import java.nio.file.InvalidPathException
import java.nio.file.NoSuchFileException
import java.nio.file.NotDirectoryException
import java.nio.file.OpenOption
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardOpenOption.CREATE
import java.nio.file.StandardOpenOption.READ
import java.nio.file.StandardOpenOption.TRUNCATE_EXISTING
import java.nio.file.StandardOpenOption.WRITE
import org.prge.UserError

/** Bytes that are read of a file of settings, at most. */
internal const val SETTINGS = 32L shl 20

/** As [SETTINGS], of a journal, a state, or packed examples. They are read as a whole. */
internal const val LARGE = 1L shl 30

/** Why the system refuses something, in its words. Java's own message has the path alone. */
internal fun reason(e: IOException): String = when (e) {
    is NoSuchFileException -> "No such file or directory"
    is AccessDeniedException -> "Permission denied"
    is FileAlreadyExistsException -> "File exists"
    is NotDirectoryException -> "Not a directory"
    is FileSystemException -> e.reason ?: "the system refuses it"
    else -> e.message ?: "the system refuses it"
}

/** Runs [block], which reads [file]; a failure becomes a sentence. */
internal inline fun <T> reading(file: File, block: () -> T): T = try {
    block()
} catch (e: IOException) {
    throw UserError("$file cannot be read: ${reason(e)}")
} catch (e: InvalidPathException) {
    throw UserError("$file cannot be read: it is no path")
}

/** Runs [block], which writes [file]; a failure becomes a sentence. */
internal inline fun <T> writing(file: File, block: () -> T): T = try {
    block()
} catch (e: IOException) {
    throw UserError("$file cannot be written: ${reason(e)}")
} catch (e: InvalidPathException) {
    throw UserError("$file cannot be written: it is no path")
}

/**
 * The bytes of a file that may come from anybody.
 *
 * @throws UserError it cannot be read, is no regular file, or holds more than [most] bytes.
 */
internal fun readBounded(file: File, most: Long): ByteArray = reading(file) {
    val path = file.toPath()
    val size = Files.size(path)
    if (!Files.isRegularFile(path)) throw UserError("$file is not a regular file")
    checkSize(file, size, most)
    Files.readAllBytes(path)
}

internal fun checkSize(file: File, size: Long, most: Long) {
    if (size > most) throw UserError("$file holds $size bytes; prge reads at most $most of such a file")
}

/** UTF-8, and nothing else. */
internal fun utf8(bytes: ByteArray): String = try {
    Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString()
} catch (e: CharacterCodingException) {
    throw Odd("it is not UTF-8")
}

internal fun open(file: File, vararg options: OpenOption): FileChannel = FileChannel.open(file.toPath(), *options)

/** Writes all of [bytes] at a place of the file. */
internal fun FileChannel.writeAt(place: Long, bytes: ByteBuffer) {
    var at = place
    while (bytes.hasRemaining()) at += write(bytes, at)
}

/** Fills [bytes] from a place of the file. */
internal fun FileChannel.readAt(place: Long, bytes: ByteBuffer) {
    var at = place
    while (bytes.hasRemaining()) {
        val count = read(bytes, at)
        if (count < 0) throw IOException("it ends too early")
        at += count
    }
}

/** Where a file's new content is written before it replaces the file. */
internal fun scratchOf(file: File): File = File(file.path.substringBeforeLast('.') + ".partial")

internal fun rename(from: File, to: File) {
    Files.move(from.toPath(), to.toPath(), ATOMIC_MOVE)
}

/** Opens a file to write it anew. */
internal fun anew(file: File): FileChannel = open(file, WRITE, CREATE, TRUNCATE_EXISTING)

/**
 * Replaces a file, and writes it through to the disk. An interrupted write leaves the file that was there.
 *
 * @throws UserError it cannot be written.
 */
internal fun replace(file: File, bytes: ByteArray) = writing(file) {
    val scratch = scratchOf(file)
    anew(scratch).use {
        it.writeAt(0, ByteBuffer.wrap(bytes))
        it.force(true)
    }
    rename(scratch, file)
}

/** Writes a file's content, or a folder's names, through to the disk. */
internal fun sync(file: File) = open(file, READ).use { it.force(true) }
