package org.prge.examples

import java.io.File
import java.io.IOException
import java.security.MessageDigest
import org.prge.UserError
import org.prge.data.Example
import org.prge.tokenizer.Tokenizer

/**
 * The row maker of a program, with the tokenizer that was written beside it.
 *
 * @property truncate whether texts longer than the program's bound are cut from the left. If not, they are refused.
 */
class Encoder private constructor(form: Form, tokenizer: Tokenizer, private val truncate: Boolean) :
    RowMaker(form, tokenizer) {
    /** How many records held nothing to learn and were left out, in all that were read so far. */
    var skipped = 0
        private set

    /** What a user should know of the records that were left out or read otherwise, in sentences. */
    val told = ArrayList<String>()

    /**
     * Reads and encodes a file, in its order.
     *
     * @throws UserError as [Form.records] and [encodeAll].
     */
    fun examples(file: File): List<Example> = encodeAll(records(file), file)

    /**
     * [Form.records] of the encoder's form, without those that lack something ([keep]).
     *
     * @throws UserError as both.
     */
    internal fun records(file: File): List<Numbered> {
        val found = keep(form, form.records(file), file)
        skipped += found.leftOut
        told += found.told
        return found.records
    }

    /**
     * Encodes the records of a file, cut to the program's bound. Those with nothing to learn add to [skipped].
     *
     * @param required whether to refuse records that all hold nothing to learn.
     * @throws UserError as [encode]; texts are longer than the program's bound (how many); or no example is left.
     */
    fun encodeAll(records: List<Numbered>, file: File, required: Boolean = true): List<Example> {
        val encoded = records.flatMap { record ->
            encode(record.record, place(file, record)).also { if (it.isEmpty()) skipped++ }
        }
        if (required && records.isNotEmpty() && encoded.isEmpty()) {
            throw UserError(
                "$file: none of its ${records.size} texts holds anything to learn: each is empty, or a single token " +
                    "with nothing before it; give longer texts"
            )
        }
        val bound = form.maxTokens
        val tooLong = encoded.count { e -> e.rows.any { it.tokens.size > bound } }
        if (tooLong > 0 && !truncate) {
            throw UserError(
                "$file: $tooLong of ${encoded.size} texts are longer than the program's $bound tokens; " +
                    "use --truncate to cut them from the left, or export with a larger --max-tokens"
            )
        }
        return encoded.map(::fit)
    }

    companion object {
        const val TOKENIZER_FILE = "tokenizer.json"

        /**
         * The encoder of a program.
         *
         * @param manifest the program's manifest, as its method `manifest` returns it.
         * @param folder the program's, with its `tokenizer.json`, and its `chat.json` where it takes chats.
         * @throws UserError a file is missing or unreadable, or is another program's.
         */
        fun of(manifest: String, folder: File, truncate: Boolean = false): Encoder {
            val chat = Chat.read(File(folder, Chat.FILE), manifest)
            val form = Form(manifest, chat)
            val file = File(folder, TOKENIZER_FILE)
            if (!file.isFile) throw UserError("$file does not exist; it is written beside the program by `prge export`")
            if (sha256(file) != form.tokenizerSha256) {
                throw UserError(
                    "$file is not the tokenizer that the program was exported with; " +
                        "use the $TOKENIZER_FILE that was written beside the program"
                )
            }
            return Encoder(form, Tokenizer.read(file), truncate)
        }

        private fun sha256(file: File): String = try {
            val digest = MessageDigest.getInstance("SHA-256")
            file.inputStream().use { input ->
                val block = ByteArray(1 shl 16)
                while (true) digest.update(block, 0, input.read(block).takeIf { it > 0 } ?: break)
            }
            digest.digest().joinToString("") { "%02x".format(it) }
        } catch (e: IOException) {
            throw UserError("$file cannot be read: ${e.message}")
        }
    }
}
