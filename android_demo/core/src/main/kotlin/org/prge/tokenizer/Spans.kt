package org.prge.tokenizer

import java.util.regex.Pattern
import org.prge.files.Odd

/** A part of a text, from one index until another, and whether a pattern matched there. */
internal class Span(val from: Int, val until: Int, val matched: Boolean) {
    /** The span of the opposite pattern. */
    fun inverse() = Span(from, until, !matched)
}

/** The text cut into matches of a pattern and what lies between them. */
internal fun spans(text: String, pattern: Pattern): List<Span> {
    val found = ArrayList<Span>()
    val matcher = pattern.matcher(text)
    var end = 0
    try {
        while (matcher.find()) {
            if (matcher.start() > end) found += Span(end, matcher.start(), false)
            found += Span(matcher.start(), matcher.end(), true)
            end = matcher.end()
        }
    } catch (e: StackOverflowError) {
        throw Odd("its pattern \"$pattern\" goes too deep for a text of ${text.length} characters")
    }
    if (end < text.length) found += Span(end, text.length, false)
    return found
}

/** The text cut before and behind each character of a kind. */
internal inline fun spans(text: String, kind: (Int) -> Boolean): List<Span> {
    val found = ArrayList<Span>()
    var begun = 0
    var i = 0
    while (i < text.length) {
        val character = text.codePointAt(i)
        val end = i + Character.charCount(character)
        if (kind(character)) {
            if (i > begun) found += Span(begun, i, false)
            found += Span(i, end, true)
            begun = end
        }
        i = end
    }
    if (begun < text.length) found += Span(begun, text.length, false)
    return found
}

/** What becomes of a match when a text is split. Names are those of tokenizer.json. */
internal enum class Behavior {
    Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous;

    /** The parts that remain of the spans of a text. */
    fun apply(spans: List<Span>): List<Span> = when (this) {
        Removed -> spans.filter { !it.matched }
        Isolated -> spans
        // A match joins its neighbour, but not a neighbour that is a match itself.
        MergedWithPrevious -> joined(spans) { before, span -> span.matched && !before.matched }
        MergedWithNext ->
            joined(spans.asReversed()) { behind, span -> span.matched && !behind.matched }.asReversed()
        Contiguous -> joined(spans) { before, span -> span.matched == before.matched }
    }

    private inline fun joined(spans: List<Span>, joins: (Span, Span) -> Boolean): List<Span> {
        val made = ArrayList<Span>()
        for ((i, span) in spans.withIndex()) {
            val last = made.lastOrNull()
            if (last != null && joins(spans[i - 1], span)) {
                made[made.size - 1] = Span(minOf(last.from, span.from), maxOf(last.until, span.until), false)
            } else {
                made += span
            }
        }
        return made
    }
}
