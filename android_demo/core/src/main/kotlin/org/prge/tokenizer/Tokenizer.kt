package org.prge.tokenizer

import java.io.File
import java.io.IOException
import java.io.InputStream
import kotlinx.serialization.SerializationException
import org.prge.UserError
import org.prge.files.Odd

/**
 * Text to tokens and back, as a Hugging Face `tokenizer.json` describes it.
 *
 * It knows byte-level BPE, BPE with byte tokens, and WordPiece, and what such tokenizers use beside them. A file that
 * asks for anything else is refused. Several threads may use one tokenizer.
 *
 * Which characters are letters, marks or punctuation is up to the platform's version of Unicode. So rare characters
 * that are newer than that may be split otherwise than where the program was exported. With WordPiece, so may marks and
 * punctuation that Unicode got after 2015.
 */
class Tokenizer private constructor(private val name: String, reading: Reading) {
    private val model: Model
    private val normalizer: Normalizer?
    private val preTokenizer: PreTokenizer?
    private val frame: Frame
    private val decoder: Decoder?
    private val raw = TokenFinder()
    private val normalized = TokenFinder()
    private val added = HashMap<String, Int>()
    private val addedTexts = HashMap<Int, String>()
    private val special = HashSet<String>()

    init {
        val file = reading.file.only(
            "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
            "decoder",
        )
        if (file.text("version") != "1.0") unknown("version \"${file.text("version")}\"")
        for (name in listOf("truncation", "padding")) {
            if (file.given(name) != null) throw Odd("it has settings for $name, which belong to the program")
        }
        fun <T> optional(name: String, make: (Part) -> T): T? = file.given(name)?.let { make(Part(name, it)) }
        model = reading.model()
        normalizer = optional("normalizer", ::normalizer)
        preTokenizer = optional("pre_tokenizer", ::preTokenizer)
        frame = optional("post_processor", ::frame) ?: Frame()
        decoder = optional("decoder", ::decoder)
        var next = model.vocabulary.size
        val tokens = if (file.given("added_tokens") == null) emptyList() else file.parts("added_tokens")
        for (token in tokens.map(::AddedToken)) {
            if (token.text.isNotEmpty()) next = add(token, next)
        }
    }

    /** Adds a token under its own number, or else under the next one; returns the next one from then on. */
    private fun add(token: AddedToken, next: Int): Int {
        val known = number(token.text)
        val number = known ?: next
        val text = if (token.normalized) normalizer?.normalize(token.text) ?: token.text else token.text
        if (text.isEmpty()) throw Odd("its added token \"${token.text}\" is empty when it is normalized")
        added[token.text] = number
        addedTexts[number] = text
        if (token.special) special += token.text
        (if (token.normalized) normalized else raw).add(text, token, number)
        return if (known == null) next + 1 else next
    }

    /** The number of a token; null if there is no such token. */
    fun number(token: String): Int? =
        added[token] ?: model.vocabulary.number(token).takeIf { it != Vocabulary.NONE }

    /** The text of a token; null if there is no such token. */
    fun token(number: Int): String? = addedTexts[number] ?: model.vocabulary.text(number)

    /**
     * The tokens of a text.
     *
     * @param special whether the special tokens that belong around every text are put there. Those that the text names
     *   itself are always found.
     * @throws UserError the tokenizer cannot take the text.
     */
    fun encode(text: String, special: Boolean = true): IntArray = speaking(name) {
        val found = Numbers()
        if (special) found += frame.before
        for (part in raw.cut(text)) {
            if (part.number != Vocabulary.NONE) found += part.number
            else words(text.substring(part.from, part.until), part.from == 0, found)
        }
        if (special) found += frame.behind
        found.toArray()
    }

    private fun words(part: String, begins: Boolean, found: Numbers) {
        val text = normalizer?.normalize(part) ?: part
        for (piece in normalized.cut(text)) {
            if (piece.number != Vocabulary.NONE) {
                found += piece.number
                continue
            }
            val whole = Piece(text.substring(piece.from, piece.until), begins && piece.from == 0)
            for (word in preTokenizer?.split(whole) ?: listOf(whole)) model.tokenize(word.text, found)
        }
    }

    /** The text of tokens. Numbers that are no tokens are left out, and so are special tokens unless asked for. */
    fun decode(tokens: IntArray, special: Boolean = false): String {
        val texts = tokens.map { token(it) }.filter { it != null && (special || it !in this.special) }.map { it!! }
        return decoder?.decode(texts)?.joinToString("") ?: texts.joinToString(" ")
    }

    companion object {
        /**
         * Reads a tokenizer.
         *
         * @throws UserError it cannot be read, or asks for something that this reader does not know.
         */
        fun read(file: File): Tokenizer = try {
            file.inputStream().use { read(it, file.path) }
        } catch (e: IOException) {
            throw UserError("$file cannot be read: ${e.message}")
        }

        /** Reads a tokenizer from a stream; `name` is its file's name in messages. */
        fun read(stream: InputStream, name: String): Tokenizer = speaking(name) {
            try {
                Tokenizer(name, Reading.of(stream))
            } catch (e: SerializationException) {
                throw Odd("it is damaged (${e.message?.lineSequence()?.first()})")
            }
        }
    }
}

private inline fun <T> speaking(name: String, work: () -> T): T = try {
    work()
} catch (e: Odd) {
    throw UserError("$name cannot be read: ${e.message}")
} catch (e: StackOverflowError) {
    throw UserError("$name cannot be read: it is nested too deep")
}
