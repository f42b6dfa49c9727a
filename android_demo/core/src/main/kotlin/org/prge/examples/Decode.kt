package org.prge.examples

import java.io.File
import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.Charset
import java.nio.charset.CodingErrorAction
import org.prge.UserError
import org.prge.files.readBounded

// Bytes. A file is in memory several times while it is read.
private const val DATA = 64L shl 20
private val MARKS = listOf(
    byteArrayOf(-17, -69, -65) to Charsets.UTF_8, byteArrayOf(-1, -2) to Charsets.UTF_16LE,
    byteArrayOf(-2, -1) to Charsets.UTF_16BE,
)
private val WESTERN = Charset.forName("windows-1252")
// What a text in Windows-1252 holds beside letters. Other signs, or these within words, speak of another code page.
private const val SIGNS = "€‚„…‘’“”•–—™\u00A0¡£¥§©«®°±²³·»¼½¾¿"
// ... and those that stand within words: quotes, dashes, and a space that does not break.
private const val WITHIN = "…‘’–—™\u00A0·"
// Bytes that stand for nothing in it.
private val NOTHING = setOf(0x81, 0x8D, 0x8F, 0x90, 0x9D)
private val LONG = Regex("[\\p{L}\\p{N}&&[^\\x00-\\x7F]]{4}")

/**
 * A file's text with `\n` as the end of lines: UTF-8 with or without a mark, UTF-16, or Windows-1252.
 *
 * @throws UserError missing, too large, or in no encoding that can be told.
 */
internal fun textOf(file: File): String {
    if (file.length() > DATA) {
        throw UserError("$file holds ${file.length()} bytes; a device reads up to $DATA; ${packing(file)}")
    }
    val bytes = readBounded(file, DATA)
    val marked = MARKS.firstOrNull { (mark) -> bytes.size >= mark.size && mark.indices.all { bytes[it] == mark[it] } }
    val charset = marked?.second ?: unmarked(bytes)
    val (text, at) = decoded(bytes, marked?.first?.size ?: 0, charset)
    val whole = when {
        at == null -> text
        charset != Charsets.UTF_8 || marked != null ->
            throw UserError("$file begins as $charset, but byte $at is not; save it as UTF-8")
        else -> western(file, bytes, at)
    }
    return whole.replace("\r\n", "\n").replace("\r", "\n")
}

/** The text, and the byte at which it ceases to be in [charset], or null. */
private fun decoded(bytes: ByteArray, from: Int, charset: Charset): Pair<String, Int?> {
    val decoder = charset.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
    val input = ByteBuffer.wrap(bytes, from, bytes.size - from)
    val text = CharBuffer.allocate(bytes.size)
    val odd = decoder.decode(input, text, true).isError
    return text.flip().toString() to input.position().takeIf { odd }
}

/** UTF-16 without a mark shows by its zeros: in Western text every other byte is one. */
private fun unmarked(bytes: ByteArray): Charset {
    val head = bytes.take(1000)
    for ((first, charset) in listOf(1 to Charsets.UTF_16LE, 0 to Charsets.UTF_16BE)) {
        val (every, others) = head.withIndex().partition { it.index % 2 == first }
        val zeros = every.count { it.value == 0.toByte() }
        if (head.size >= 8 && zeros > 0.7 * every.size && others.none { it.value == 0.toByte() }) return charset
    }
    return Charsets.UTF_8
}

/** The text as Windows-1252, which has what Western Europe writes, where it looks like such a text. */
private fun western(file: File, bytes: ByteArray, at: Int): String {
    val text = String(bytes, WESTERN)
    val foreign = text.indices.filter { text[it].code > 0x7F }
    val signs = foreign.filter { !text[it].isLetter() }
    fun letter(at: Int) = text.getOrNull(at)?.isLetter() == true
    val within = signs.filter { letter(it - 1) && letter(it + 1) }
    val odd = bytes.any { it.toInt() and 0xFF in NOTHING } || signs.any { text[it] !in SIGNS } ||
        within.any { text[it] !in WITHIN } || LONG.containsMatchIn(text) || // no Western word has so many together
        3 * (foreign.size - signs.size) > text.count(Char::isLetter) || text.any { it < ' ' && it !in "\t\n\r\u000C" }
    if (!odd) return text
    throw UserError("$file is not UTF-8 (byte $at), and its encoding cannot be told; save it as UTF-8")
}
