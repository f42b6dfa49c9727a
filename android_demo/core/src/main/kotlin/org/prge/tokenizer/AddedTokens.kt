package org.prge.tokenizer

/**
 * A token that is found in a text before anything else is done to it.
 *
 * @property special whether it means something to the model, and is left out of what a person reads.
 * @property normalized whether it is looked for in the normalized text; if not, in the text as it is.
 * @property wholeWord whether it counts only where no letter stands beside it.
 * @property takesLeft whether it takes the white space before it along.
 * @property takesRight whether it takes the white space behind it along.
 */
internal data class AddedToken(
    val text: String,
    val special: Boolean,
    val normalized: Boolean,
    val wholeWord: Boolean,
    val takesLeft: Boolean,
    val takesRight: Boolean,
) {
    constructor(part: Part) : this(
        part.only("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special").text("content"),
        part.flag("special"), part.flag("normalized"), part.flag("single_word"), part.flag("lstrip"),
        part.flag("rstrip"),
    )
}

/** A part of a text: the number of the token that it is, or [Vocabulary.NONE]. */
internal class Found(val from: Int, val until: Int, val number: Int)

/** Finds tokens in texts: the leftmost one first, and of several that begin there the longest. */
internal class TokenFinder {
    private class Node(var token: AddedToken? = null, var number: Int = Vocabulary.NONE) {
        val next = HashMap<Char, Node>()
    }

    private val root = Node()

    /** Looks for a token from now on; `text` is what it is in the texts. */
    fun add(text: String, token: AddedToken, number: Int) {
        val node = text.fold(root) { node, letter -> node.next.getOrPut(letter) { Node() } }
        node.token = token
        node.number = number
    }

    /** Cuts a text into tokens and what lies between them. */
    fun cut(text: String): List<Found> {
        val found = ArrayList<Found>()
        var done = 0
        var at = 0
        while (at < text.length) {
            var node = root
            var end = at
            var token: Node? = null
            var behind = at
            while (true) {
                if (node.token != null) {
                    token = node
                    behind = end
                }
                if (end == text.length) break
                node = node.next[text[end++]] ?: break
            }
            if (token == null) {
                at++
                continue
            }
            val held = token.token!!
            var (from, until) = at to behind
            at = behind
            if (held.wholeWord && !standsAlone(text, from, until)) continue
            if (held.takesLeft) while (from > done && isSpace(text[from - 1].code)) from--
            if (held.takesRight) while (until < text.length && isSpace(text[until].code)) until++
            if (from > done) found += Found(done, from, Vocabulary.NONE)
            found += Found(from, until, token.number)
            done = until
        }
        if (done < text.length) found += Found(done, text.length, Vocabulary.NONE)
        return found
    }

    private fun standsAlone(text: String, from: Int, until: Int): Boolean =
        (from == 0 || !isWord(text.codePointBefore(from))) && (until == text.length || !isWord(text.codePointAt(until)))
}
