package org.prge.tokenizer

import java.text.Normalizer.Form
import java.text.Normalizer.normalize
import java.util.Locale
import org.prge.files.Odd

/** Changes a text before it is split into words. */
internal fun interface Normalizer {
    fun normalize(text: String): String
}

/** The normalizer that a tokenizer.json describes. */
internal fun normalizer(part: Part): Normalizer = when (part.type) {
    "Sequence" -> {
        val steps = part.only("type", "normalizers").parts("normalizers").map(::normalizer)
        Normalizer { steps.fold(it) { text, step -> step.normalize(text) } }
    }
    "NFC", "NFD", "NFKC", "NFKD" -> part.only("type").let { composed(Form.valueOf(it.type)) }
    "Lowercase" -> part.only("type").let { Normalizer(::lowercase) }
    "StripAccents" -> part.only("type").let { Normalizer { text -> without(text, ::isMark) } }
    "Strip" -> part.only("type", "strip_left", "strip_right").run { strip(flag("strip_left"), flag("strip_right")) }
    "Prepend" -> part.only("type", "prepend").text("prepend").let { begin ->
        Normalizer { if (it.isEmpty()) it else begin + it }
    }
    "Replace" -> replace(part).let { Normalizer(it) }
    "BertNormalizer" -> bert(part)
    else -> unknown("${part.place} of the type \"${part.type}\"")
}

/** Replaces all places where a pattern matches; a normalizer and a decoder have it. */
internal fun replace(part: Part): (String) -> String {
    part.only("type", "pattern", "content")
    val content = part.text("content")
    val asked = part.part("pattern").only("String", "Regex")
    asked.optionalText("String")?.let { literal ->
        if (literal.isEmpty()) throw Odd("its ${part.place} replaces an empty text")
        return { it.replace(literal, content) }
    }
    val pattern = pattern(asked.text("Regex"))
    return { text ->
        spans(text, pattern).joinToString("") { if (it.matched) content else text.substring(it.from, it.until) }
    }
}

private fun composed(form: Form) = Normalizer { normalize(it, form) }

/** Lower case, character by character: what stands beside a character does not count. */
private fun lowercase(text: String): String = mapped(text) { character ->
    if (character < 0x80) append(Character.toLowerCase(character.toChar()))
    else append(String(Character.toChars(character)).lowercase(Locale.ROOT))
}

private fun without(text: String, kind: (Int) -> Boolean): String =
    mapped(text) { if (!kind(it)) appendCodePoint(it) }

private fun strip(left: Boolean, right: Boolean) = Normalizer { text ->
    var (from, until) = 0 to text.length
    if (left) while (from < until && isSpace(text[from].code)) from++
    if (right) while (until > from && isSpace(text[until - 1].code)) until--
    text.substring(from, until)
}

private fun bert(part: Part): Normalizer {
    part.only("type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    val (clean, chinese, lower) = listOf("clean_text", "handle_chinese_chars", "lowercase").map { part.flag(it) }
    val accents = part.flag("strip_accents", lower)
    return Normalizer {
        var text = it
        if (clean) text = cleaned(text)
        if (chinese) text = apart(text)
        if (accents) text = without(normalize(text, Form.NFD), ::isNonspacingMark)
        if (lower) text = lowercase(text)
        text
    }
}

/** The text without control characters, and with a plain space for every white space. */
private fun cleaned(text: String): String = mapped(text) { character ->
    if (!isControl(character) && character != 0xFFFD) appendCodePoint(if (isSpace(character)) ' '.code else character)
}

private fun isControl(character: Int): Boolean = when (Character.getType(character).toByte()) {
    Character.CONTROL -> character != '\t'.code && character != '\n'.code && character != '\r'.code
    Character.FORMAT, Character.PRIVATE_USE -> true
    else -> false
}

/** The text with spaces around every Chinese character. */
private fun apart(text: String): String = mapped(text) {
    if (isChinese(it)) append(' ').appendCodePoint(it).append(' ') else appendCodePoint(it)
}

private fun isChinese(character: Int): Boolean = when (character) {
    in 0x4E00..0x9FFF, in 0x3400..0x4DBF, in 0x20000..0x2A6DF, in 0x2A700..0x2B73F, in 0x2B740..0x2B81F,
    in 0x2B920..0x2CEAF, in 0xF900..0xFAFF, in 0x2F800..0x2FA1F,
    -> true
    else -> false
}
