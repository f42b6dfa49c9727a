package org.prge.tokenizer

/**
 * The text of tokens that come one by one.
 *
 * A character of several tokens comes with its last one.
 */
class TextStream(private val tokenizer: Tokenizer, prompt: IntArray = IntArray(0)) {
    private var tokens = prompt // those whose text may still matter to the next one's
    private var written = 0 // how many of them gave their text
    private var text = "" // of these

    /** The text that is whole with this token; empty where a character still lacks some. */
    fun next(token: Int): String {
        if (text.isEmpty()) {
            val known = tokenizer.decode(tokens)
            if (!known.endsWith(BROKEN)) {
                text = known
                written = tokens.size
            }
        }
        tokens += token
        val whole = tokenizer.decode(tokens)
        if (whole.length <= text.length || whole.endsWith(BROKEN) || !whole.startsWith(text)) return ""
        val piece = whole.substring(text.length)
        val size = tokens.size
        tokens = tokens.copyOfRange(written, size)
        written = size - written
        text = tokenizer.decode(tokens)
        return piece
    }

    private companion object {
        const val BROKEN = '\uFFFD'
    }
}
