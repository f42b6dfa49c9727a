package org.prge.tokenizer

/** Takes a word to tokens. Words are what the pre-tokenizer leaves. */
internal interface Model {
    val vocabulary: Vocabulary

    /** Appends the tokens of a word. */
    fun tokenize(word: String, into: Numbers)
}
