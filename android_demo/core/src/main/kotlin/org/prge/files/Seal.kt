package org.prge.files

import java.io.File
import java.nio.ByteBuffer
import java.nio.file.StandardOpenOption.READ
import java.security.MessageDigest

private val MAGIC = "prge-seal".toByteArray()
private const val BLOCK = 1 shl 20

/** The SHA-256, in hex, that a program's file was sealed with; null without a seal. Its other bytes are not read. */
internal fun sealOf(file: File): String? = reading(file) {
    open(file, READ).use { channel ->
        val tail = ByteBuffer.allocate(MAGIC.size + 32)
        if (channel.size() < tail.capacity()) return null
        channel.readAt(channel.size() - tail.capacity(), tail)
        if (!tail.array().copyOf(MAGIC.size).contentEquals(MAGIC)) return null
        return hex(tail.array().copyOfRange(MAGIC.size, tail.capacity()))
    }
}

/** Whether a file with a seal holds the bytes that were sealed. All of it is read. */
internal fun isAsSealed(file: File): Boolean = reading(file) {
    open(file, READ).use { channel ->
        val digest = MessageDigest.getInstance("SHA-256")
        val block = ByteBuffer.allocate(BLOCK)
        var at = 0L
        val end = channel.size() - MAGIC.size - 32
        while (at < end) {
            block.clear().limit(minOf(BLOCK.toLong(), end - at).toInt())
            channel.readAt(at, block)
            digest.update(block.array(), 0, block.position())
            at += block.position()
        }
        return hex(digest.digest()) == sealOf(file)
    }
}

private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }
