package org.prge.tokenizer

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

/** Turns tokens back into text, which is all of them joined. */
internal fun interface Decoder {
    fun decode(tokens: List<String>): List<String>
}

/** The decoder that a tokenizer.json describes. */
internal fun decoder(part: Part): Decoder = when (part.type) {
    "Sequence" -> {
        val steps = part.only("type", "decoders").parts("decoders").map(::decoder)
        Decoder { steps.fold(it) { tokens, step -> step.decode(tokens) } }
    }
    "ByteLevel" -> part.only("type", "add_prefix_space", "trim_offsets", "use_regex").let {
        Decoder { tokens -> listOf(toText(joined(tokens.map(::toBytes)))) }
    }
    "ByteFallback" -> part.only("type").let { Decoder(::withoutByteTokens) }
    "Fuse" -> part.only("type").let { Decoder { tokens -> listOf(tokens.joinToString("")) } }
    "Strip" -> strip(part)
    "Replace" -> replace(part).let { change -> Decoder { tokens -> tokens.map(change) } }
    "Metaspace" -> metaspace(part)
    "WordPiece" -> wordPiece(part)
    else -> unknown("${part.place} of the type \"${part.type}\"")
}

private fun joined(parts: List<ByteArray>): ByteArray {
    val all = ByteArray(parts.sumOf { it.size })
    var at = 0
    for (part in parts) {
        part.copyInto(all, at)
        at += part.size
    }
    return all
}

private val BYTE_TOKEN = Regex("<0x([0-9A-Fa-f]{2})>")

/** Tokens like `<0xE2>` as the characters whose bytes they are; a row of them that is no UTF-8 becomes U+FFFD each. */
private fun withoutByteTokens(tokens: List<String>): List<String> {
    val made = ArrayList<String>()
    val bytes = ArrayList<Byte>()
    fun flush() {
        if (bytes.isEmpty()) return
        try {
            made += Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes.toByteArray())).toString()
        } catch (e: CharacterCodingException) {
            bytes.forEach { _ -> made += "\uFFFD" }
        }
        bytes.clear()
    }
    for (token in tokens) {
        val byte = BYTE_TOKEN.matchEntire(token)?.groupValues?.get(1)?.toInt(16)
        if (byte != null) {
            bytes += byte.toByte()
        } else {
            flush()
            made += token
        }
    }
    flush()
    return made
}

/** Takes a character away from both ends of each token, at most so many times. */
private fun strip(part: Part): Decoder {
    val sign = part.only("type", "content", "start", "stop").sign("content")
    val (start, stop) = part.number("start") to part.number("stop")
    return Decoder { tokens ->
        tokens.map { token ->
            var text = token
            for (i in 0 until start) if (text.startsWith(sign)) text = text.removePrefix(sign) else break
            for (i in 0 until stop) if (text.endsWith(sign)) text = text.removeSuffix(sign) else break
            text
        }
    }
}

private fun metaspace(part: Part): Decoder {
    part.only("type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep")
    val sign = part.sign("replacement")
    val begin = if (prependScheme(part) == "never") " " else ""
    return Decoder { tokens -> tokens.mapIndexed { i, token -> token.replace(sign, if (i == 0) begin else " ") } }
}

private fun wordPiece(part: Part): Decoder {
    val prefix = part.only("type", "prefix", "cleanup").text("prefix")
    val cleanup = part.flag("cleanup")
    return Decoder { tokens ->
        tokens.mapIndexed { i, token ->
            val text = if (i == 0) token else if (token.startsWith(prefix)) token.removePrefix(prefix) else " $token"
            if (cleanup) TIDY.fold(text) { tidied, (from, to) -> tidied.replace(from, to) } else text
        }
    }
}

private val TIDY = listOf(
    " ." to ".", " ?" to "?", " !" to "!", " ," to ",", " ' " to "'", " n't" to "n't", " 'm" to "'m",
    " do not" to " don't", " 's" to "'s", " 've" to "'ve", " 're" to "'re",
)
