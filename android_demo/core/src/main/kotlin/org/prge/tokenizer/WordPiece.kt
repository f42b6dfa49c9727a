package org.prge.tokenizer

import org.prge.files.Odd

/**
 * BERT's model: a word is cut from the left into the longest tokens that fit.
 *
 * @property unknown the token of a word that cannot be cut, or is too long.
 * @property prefix marks tokens that go on with a word.
 * @property longest the most characters of a word.
 */
internal class WordPiece(
    override val vocabulary: Vocabulary,
    private val unknown: String,
    private val prefix: String,
    private val longest: Int,
) : Model {
    override fun tokenize(word: String, into: Numbers) {
        pieces(word)?.let { into += it } ?: run {
            val token = vocabulary.number(unknown)
            if (token == Vocabulary.NONE) throw Odd("its unk_token \"$unknown\" is not in the vocabulary")
            into += token
        }
    }

    private fun pieces(word: String): IntArray? {
        if (word.codePointCount(0, word.length) > longest) return null
        val found = Numbers()
        val rest = StringBuilder(word)
        while (rest.length > (if (found.size > 0) prefix.length else 0)) {
            val least = if (found.size > 0) prefix.length else 0
            var end = rest.length
            var token = vocabulary.number(rest, 0, end)
            while (token == Vocabulary.NONE) {
                end -= Character.charCount(Character.codePointBefore(rest, end))
                if (end <= least) return null
                token = vocabulary.number(rest, 0, end)
            }
            found += token
            rest.replace(0, end, prefix)
        }
        return found.toArray()
    }
}
