package org.prge.app

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.util.zip.ZipException
import java.util.zip.ZipInputStream
import org.prge.UserError

/** The files of a program that may be in its folder. Nothing else is taken out of a zip. */
private val PROGRAM = setOf(
    "program.pte", "frozen.pte", "generate.pte", "tokenizer.json", "chat.json", "export.json", "initial.safetensors",
)
private const val MOST_BYTES = 8L shl 30

/**
 * Takes a program out of a zip, from its top or from one folder in it.
 *
 * @param to a new folder; it is there when all of it is whole, and not at all otherwise.
 * @throws UserError the zip is none, is damaged, is too large, or holds no program.
 */
fun importProgram(zip: InputStream, to: File) {
    val scratch = File(to.parentFile, "${to.name}.partial")
    scratch.deleteRecursively()
    try {
        if (!scratch.mkdirs()) throw UserError("there is no room for a program: $scratch cannot be made")
        unpack(zip, scratch)
        if (!File(scratch, "program.pte").isFile)
            throw UserError("the zip holds no program.pte; zip the folder that `prge export` made")
        if (!scratch.renameTo(to)) throw UserError("there is a program at $to already; remove it first")
    } catch (e: IOException) {
        throw UserError("the zip cannot be unpacked: ${e.message ?: "it is damaged"}")
    } finally {
        scratch.deleteRecursively()
    }
}

/** A name alone decides where a file goes, and only known names do; so no path in a zip can leave its folder. */
private fun unpack(zip: InputStream, to: File) {
    var left = MOST_BYTES
    var folder: String? = null
    var entries = 0
    val source = ZipInputStream(zip)
    while (true) {
        val entry = try {
            source.nextEntry
        } catch (e: IllegalArgumentException) { // a name that is no UTF-8
            throw ZipException("it has a file whose name cannot be read")
        } ?: break
        entries++
        val name = entry.name.substringAfterLast('/')
        if (entry.isDirectory || name !in PROGRAM) {
            left = copy(source, NOWHERE, left)
            continue
        }
        val place = entry.name.substringBeforeLast('/', "")
        if (folder != null && place != folder) throw ZipException("it holds more than one program")
        folder = place
        val file = File(to, name)
        if (file.exists()) throw ZipException("it holds $name twice")
        file.outputStream().use { left = copy(source, it, left) }
    }
    if (entries == 0) throw ZipException("it is no zip, or empty")
}

private val NOWHERE = object : OutputStream() {
    override fun write(byte: Int) = Unit

    override fun write(bytes: ByteArray, offset: Int, count: Int) = Unit
}

/** Returns what is left of [most] bytes. The zip may lie about a file's size, so they are counted. */
private fun copy(source: InputStream, target: OutputStream, most: Long): Long {
    val block = ByteArray(1 shl 16)
    var left = most
    while (true) {
        val count = source.read(block)
        if (count < 0) return left
        left -= count
        if (left < 0) throw ZipException("what it holds is larger than ${most shr 30} GB")
        target.write(block, 0, count)
    }
}
