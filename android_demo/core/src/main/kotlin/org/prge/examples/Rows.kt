package org.prge.examples

import org.prge.UserError
import org.prge.data.Example
import org.prge.tokenizer.Tokenizer

/**
 * The one maker of token rows.
 *
 * @property form what an example is.
 * @property tokenizer the program's.
 */
open class RowMaker(val form: Form, val tokenizer: Tokenizer) {
    /**
     * The examples of a record: one, or one per window of a long target; none if there is nothing to learn.
     *
     * There is nothing to learn from a text without tokens, or from a single token with nothing before it. Rows may be
     * longer than the form's bound: [fit] cuts them.
     *
     * @param where the record's place, for messages.
     * @param labelled whether the right class or choice must be known. If not, classes are left out, and a record whose
     *   right choice is unknown gives a row for each choice.
     * @throws UserError a column is missing or holds no text, the label is missing or unknown, a choice has more target
     *   tokens than the form takes, the row does not hold its mask once, or a token is unknown to the model.
     */
    fun encode(record: Record, where: String, labelled: Boolean = true): List<Example> {
        if (form.labels.isNotEmpty()) {
            val label = if (labelled) label(record, where) else -1
            val row = prompt(record, where)
            if (row.isEmpty()) return emptyList()
            checkMask(cutLeft(row), where)
            return listOf(Example(row, label))
        }
        if (form.choices == "") return windows(record, where)
        val choices = record[form.choices] as? List<*>
            ?: throw UserError("$where: column '${form.choices}' must be a list of at least two texts")
        val rows = choices.map { choice ->
            val found = windows(record + (CHOICE to (choice ?: "")), where)
            if (found.size > 1) {
                throw UserError(
                    "$where: the choice '$choice' has more target tokens than the ${form.maxTargets} that the " +
                        "program takes: shorten it, or export with a larger --max-targets"
                )
            }
            found.firstOrNull()
        }.map { it ?: return emptyList() }
        val label = record[form.labelColumn]
        if (label != null) {
            val right = (label as? String)?.toIntOrNull()?.takeIf { it in rows.indices }
                ?: throw UserError("$where: ${form.labelColumn} '$label' is no index of a choice")
            return listOf(rows[right].copy(label = right, candidates = rows))
        }
        if (labelled) throw UserError("$where: no label, so the right choice is unknown")
        return rows
    }

    /**
     * A record's row for classification. It may lack a label, and be longer than the form's bound.
     *
     * @throws UserError as [encode], or the text has no tokens.
     */
    fun example(record: Record, where: String = "the text"): Example =
        encode(record, where, labelled = form.labelColumn in record).firstOrNull()
            ?: throw UserError("$where: empty text")

    /** Cuts an example from the left to the form's bound. Its targets stay, as far as they fit. */
    fun fit(example: Example): Example {
        val tokens = cutLeft(example.tokens)
        val targets = minOf(example.targets, tokens.size - 1)
        return Example(tokens, example.label, targets, example.candidates.map(::fit))
    }

    /**
     * The tokens of what the model is given when it is to answer, as it learned it: in the program's template, or as
     * the user's turn of a chat, or as they are where the program continues texts.
     *
     * @param texts of the form's [Form.asked], in their order.
     */
    fun asked(texts: List<String>, where: String): IntArray = when {
        form.takesChats -> encode(form.chat.render(listOf(Message("user", texts.single())), reply = true), where)
        form.template.columns.isEmpty() -> encode(texts.single(), where)
        else -> prompt(form.asked.zip(texts).toMap(), where)
    }

    /** The tokens of a record's prompt, as the model is given it when it is to answer. */
    fun prompt(record: Record, where: String): IntArray {
        val mask = form.maskToken?.let { mapOf(MASK to tokenizer.token(it).toString()) }.orEmpty()
        return encode(form.template.fill(record + mask, where), where)
    }

    /** A tokenizer may know tokens beyond the rows of the model's embedding; what the runtime reads there is anything. */
    private fun encode(text: String, where: String): IntArray {
        // A chat template writes the special tokens itself.
        val tokens = tokenizer.encode(text, special = form.chatTemplate == "")
        val most = tokens.maxOrNull() ?: return tokens
        if (most < form.vocabulary) return tokens
        throw UserError(
            "$where: the tokenizer makes '${tokenizer.token(most)}' the token $most, and the model has embeddings of " +
                "${form.vocabulary} tokens alone: leave that text out, or resize the model's embeddings first"
        )
    }

    /**
     * The target in pieces that the form takes, each after as much of the text before it as fits.
     *
     * Prompt and target are encoded in one text: what a tokenizer makes of a word depends on what is around it. A token
     * of letters from both is the target's. Behind the target is the token that ends a text, so that the model learns
     * to stop; but not behind one of several choices, nor where the target ends in such a token itself.
     */
    private fun windows(record: Record, where: String): List<Example> {
        val prompt = prompt(record, where)
        val answer = form.target.fill(record, where)
        if (answer == "") return emptyList()
        var whole = encode(form.template.fill(record, where) + answer, where)
        val shared = prompt.indices.firstOrNull { it == whole.size || prompt[it] != whole[it] } ?: prompt.size
        val start = maxOf(shared, 1) // nothing predicts the first token
        if (whole.size > start && form.choices == "" && form.stopTokens.isNotEmpty() &&
            whole.last() !in form.stopTokens
        ) {
            whole += form.stopTokens[0]
        }
        val most = minOf(form.maxTargets, form.maxTokens - 1)
        return (start until whole.size step most).map { from ->
            val end = minOf(from + most, whole.size)
            val first = if (from == start) 0 else maxOf(0, end - form.maxTokens)
            Example(whole.copyOfRange(first, end), targets = end - from)
        }
    }

    private fun label(record: Record, where: String): Int {
        val label = record[form.labelColumn]
            ?: throw UserError("$where: no column '${form.labelColumn}'; it has ${record.keys.joinToString()}")
        val index = form.labels.indexOf(label)
        if (index < 0) {
            throw UserError("$where: unknown label '$label'; the program knows ${form.labels.joinToString()}")
        }
        return index
    }

    private fun checkMask(tokens: IntArray, where: String) {
        val masks = tokens.count { it == form.maskToken }
        if (form.answerAt == "mask" && masks != 1) {
            throw UserError(
                "$where: the row holds the mask token $masks times, not once; the text holds one itself, or it is " +
                    "too long and its mask was cut off"
            )
        }
    }

    /** The row's last tokens, as many as fit. An encoder's rows also keep their first token, which opens every text. */
    private fun cutLeft(tokens: IntArray): IntArray {
        val over = tokens.size - form.maxTokens
        if (over <= 0) return tokens
        if (form.answerAt == "last") return tokens.copyOfRange(over, tokens.size)
        return intArrayOf(tokens[0]) + tokens.copyOfRange(over + 1, tokens.size)
    }
}
