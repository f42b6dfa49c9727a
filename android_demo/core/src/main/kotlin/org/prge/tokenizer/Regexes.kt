package org.prge.tokenizer

import java.util.regex.Pattern
import java.util.regex.PatternSyntaxException
import org.prge.files.Odd

/**
 * A tokenizer's regular expression in Java's syntax, so that it means the same on a desktop and on Android.
 *
 * Tokenizers write theirs in Oniguruma's. What is the same in both is kept, what differs is spelled out, and anything
 * else is refused.
 */
internal fun pattern(expression: String): Pattern {
    val translated = Translation(expression).toString()
    return try {
        // Android always ignores case by Unicode's rules. A desktop must be told, and not in the text itself.
        Pattern.compile(translated, Pattern.UNICODE_CASE)
    } catch (e: PatternSyntaxException) {
        throw Odd("its pattern \"$expression\" is no regular expression (${e.description})")
    }
}

private class Translation(private val expression: String) {
    private val made = StringBuilder()
    private var at = 0

    init {
        while (at < expression.length) {
            when (val c = expression[at]) {
                '\\' -> escape(inside = false)
                '[' -> characterClass()
                '(' -> group()
                '.' -> keep("[^\\n]", 1)
                '{' -> keep(expected(REPEAT))
                '^', '$' -> refuse("$c") // they mean a line's ends there, and the text's here
                else -> keep("$c", 1)
            }
        }
    }

    private fun group() {
        val opening = GROUPS.firstOrNull { expression.startsWith(it, at) }
        if (opening == null && expression.startsWith("(?", at)) refuse(expression.substring(at).take(4))
        keep(opening ?: "(?:", (opening ?: "(").length)
    }

    private fun characterClass() {
        val start = at
        keep("[", 1)
        val negated = expression.startsWith("^", at)
        if (negated) keep("^", 1)
        val first = at
        while (true) {
            when (val c = expression.getOrNull(at) ?: refuse(expression.substring(start))) {
                ']' -> if (at > first) return keep("]", 1) else refuse("[]")
                '\\' -> escape(inside = true, negated)
                '-' -> keep("-", 1)
                '[' -> refuse("[ inside [...]") // sets within sets
                else -> if (expression.startsWith("&&", at)) refuse("&&") else literal()
            }
        }
    }

    /** Keeps a character of a class, whatever it means to Java. */
    private fun literal() {
        val character = expression.codePointAt(at)
        keep("\\x{%X}".format(character), Character.charCount(character))
    }

    private fun escape(inside: Boolean, negated: Boolean = false) {
        val c = expression.getOrNull(at + 1) ?: refuse("\\")
        val set = SETS[c.lowercaseChar()]
        when {
            c == 'p' || c == 'P' -> property(c)
            set != null && c.isLowerCase() -> keep(if (inside) set else "[$set]", 2)
            set != null && !(inside && negated) -> keep("[^$set]", 2)
            c in "rnt" -> keep("\\$c", 2)
            c == 'x' || c == 'u' -> keep(expected(CODES))
            c.code < 0x80 && !c.isLetterOrDigit() -> keep("\\$c", 2)
            else -> refuse("\\$c")
        }
    }

    private fun property(sign: Char) {
        val (inverse, name) = PROPERTY.matchEntire(expected(PROPERTIES))!!.destructured
        val negative = (sign == 'P') != inverse.isNotEmpty()
        val java = if (name.length <= 2) name else "script=$name"
        keep(if (negative) "\\P{$java}" else "\\p{$java}")
    }

    /** Takes what must stand here. */
    private fun expected(form: Regex): String {
        val found = form.matchAt(expression, at) ?: refuse(expression.substring(at).take(4))
        at += found.value.length
        return found.value
    }

    private fun keep(text: String, taken: Int = 0) {
        made.append(text)
        at += taken
    }

    private fun refuse(part: String): Nothing =
        throw Odd("its pattern \"$expression\" holds \"$part\", which this reader does not know")

    override fun toString() = made.toString()

    private companion object {
        val GROUPS = listOf("(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>")
        val SETS = mapOf('s' to SPACES, 'w' to WORDS, 'd' to "\\p{Nd}")
        val REPEAT = Regex("\\{[0-9]*,?[0-9]*\\}(?!\\+)") // with a plus behind it is possessive in Java alone
        val CODES = Regex("\\\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})")
        val PROPERTIES = Regex("\\\\[pP]\\{\\^?[A-Za-z]+\\}")
        val PROPERTY = Regex("\\\\[pP]\\{(\\^?)([A-Za-z]+)\\}")
    }
}
