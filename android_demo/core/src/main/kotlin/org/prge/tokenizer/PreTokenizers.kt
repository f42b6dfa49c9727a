package org.prge.tokenizer

import java.util.regex.Pattern
import org.prge.files.Odd

/** A piece of a text, and whether the text begins with it. */
internal class Piece(val text: String, val begins: Boolean) {
    /** The pieces that lie in the spans, without empty ones. */
    fun cut(spans: List<Span>): List<Piece> = spans.mapNotNull {
        if (it.from == it.until) null else Piece(text.substring(it.from, it.until), begins && it.from == 0)
    }
}

/** Splits a text into words, which the model takes one by one. */
internal fun interface PreTokenizer {
    fun split(piece: Piece): List<Piece>
}

/** The pre-tokenizer that a tokenizer.json describes. */
internal fun preTokenizer(part: Part): PreTokenizer = when (part.type) {
    "Sequence" -> {
        val steps = part.only("type", "pretokenizers").parts("pretokenizers").map(::preTokenizer)
        PreTokenizer { steps.fold(listOf(it)) { pieces, step -> pieces.flatMap(step::split) } }
    }
    "ByteLevel" -> byteLevel(part)
    "Split" -> split(part)
    "Digits" -> {
        val each = part.only("type", "individual_digits").flag("individual_digits")
        val behavior = if (each) Behavior.Isolated else Behavior.Contiguous
        PreTokenizer { it.cut(behavior.apply(spans(it.text, ::isNumeric))) }
    }
    "Metaspace" -> metaspace(part)
    "BertPreTokenizer" -> part.only("type").let {
        PreTokenizer { piece ->
            piece.cut(Behavior.Removed.apply(spans(piece.text, ::isSpace)))
                .flatMap { it.cut(spans(it.text, ::isPunctuation)) }
        }
    }
    else -> unknown("${part.place} of the type \"${part.type}\"")
}

/** GPT-2's words. */
private val WORD = pattern("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")

private fun byteLevel(part: Part): PreTokenizer {
    part.only("type", "add_prefix_space", "trim_offsets", "use_regex")
    val prefix = part.flag("add_prefix_space")
    val words = part.flag("use_regex", true)
    return PreTokenizer {
        val text = if (prefix && !it.text.startsWith(' ')) " ${it.text}" else it.text
        val piece = Piece(text, it.begins)
        val found = if (words) piece.cut(spans(text, WORD)) else listOf(piece)
        found.map { word -> Piece(toLetters(word.text), word.begins) }
    }
}

private fun split(part: Part): PreTokenizer {
    part.only("type", "pattern", "behavior", "invert")
    val asked = part.part("pattern").only("String", "Regex")
    val literal = asked.optionalText("String")
    val pattern = if (literal == null) pattern(asked.text("Regex")) else Pattern.compile(literal, Pattern.LITERAL)
    val behavior = part.choice<Behavior>("behavior")
    val invert = part.flag("invert", false)
    return PreTokenizer {
        val found = spans(it.text, pattern)
        it.cut(behavior.apply(if (invert) found.map(Span::inverse) else found))
    }
}

private fun metaspace(part: Part): PreTokenizer {
    part.only("type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep")
    val sign = part.sign("replacement")
    val scheme = prependScheme(part)
    val signs = Pattern.compile(sign, Pattern.LITERAL)
    val split = part.flag("split", true)
    return PreTokenizer {
        var text = it.text.replace(" ", sign)
        if (!text.startsWith(sign) && (scheme == "always" || scheme == "first" && it.begins)) text = sign + text
        val piece = Piece(text, it.begins)
        if (split) piece.cut(Behavior.MergedWithNext.apply(spans(text, signs))) else listOf(piece)
    }
}

/** Whether a text gets a sign in front: "always", "first" (where the whole text begins) or "never". */
internal fun prependScheme(part: Part): String {
    val scheme = part.optionalText("prepend_scheme") ?: "always"
    if (scheme !in listOf("always", "first", "never")) unknown("${part.place}.prepend_scheme \"$scheme\"")
    if (scheme != "never" && !part.flag("add_prefix_space", true)) {
        throw Odd("its ${part.place}.add_prefix_space does not fit its prepend_scheme")
    }
    return scheme
}
