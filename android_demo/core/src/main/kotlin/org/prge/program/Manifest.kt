package org.prge.program

import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import org.prge.UserError
import org.prge.files.Odd
import org.prge.files.at
import org.prge.files.flag
import org.prge.files.items
import org.prge.files.parseJson
import org.prge.files.real
import org.prge.files.short
import org.prge.files.text
import org.prge.files.textOrNull
import org.prge.files.whole

private const val VERSION = 5
private const val OLDEST = 4
private const val SIZE = 1L shl 20

/**
 * A class that a program tells apart.
 *
 * @property name as the data has it.
 * @property word the label word that stands for it.
 * @property token the word, as an index of the vocabulary.
 */
data class Label(val name: String, val word: String, val token: Int)

/**
 * What trains of a linear: its core is [rows, columns] from [offset] of the state on.
 *
 * @property name the linear's full name in the checkpoint.
 */
sealed class Core(json: JsonElement) {
    val name = json.at("name").text()
    val outFeatures = json.at("out_features").whole(SIZE).toInt()
    val offset = json.at("offset").whole().toInt()
    val rows = json.at("core").items()[0].whole(SIZE).toInt()
    val columns = json.at("core").items()[1].whole(SIZE).toInt()

    /** Numbers in the core. */
    val size: Int get() = rows * columns
}

/** An adapted linear. */
class AdaptedModule internal constructor(json: JsonElement) : Core(json) {
    val inFeatures = json.at("in_features").whole(SIZE).toInt()
}

/**
 * The rows of the label words in the head, which train too.
 *
 * @property gain what multiplies the core.
 */
class TrainedHead internal constructor(json: JsonElement) : Core(json) {
    val gain = json.at("gain").real()
}

/**
 * What a program says about itself. prge's manifest.py explains every field.
 *
 * @property json the whole manifest, also the fields that only other readers need.
 * @property hidden H, the width of the hidden states.
 * @property parameters how many numbers of the state train; they are the first.
 * @property maskToken -1 where there is none.
 */
class Manifest private constructor(val json: JsonObject, kind: String) {
    val model = json.at("model").text()
    val modelSha256 = json.at("model_sha256").text()
    val adapterSha256 = json.at("adapter").at("sha256").text()
    val frozenSha256 = json.at("frozen_sha256").text()
    val tokenizerSha256 = json.at("tokenizer_sha256").text()
    val gradient = oneOf("gradient", "full", "exact", "activations", "weights")
    val optimizer = oneOf("optimizer", "sgd", "momentum", "adam")
    val objective = oneOf("objective", "label-words", "language-modelling")
    val answerAt = oneOf("answer_at", "last", "mask", "first")
    val template = json.at("template").text()
    val target = json.at("target").text()
    val chatTemplate = json.at("chat_template").text()
    val labelColumn = json.at("label_column").text()
    val choicesColumn = json.at("choices").text()
    val stopTokens = json.at("stop_tokens").items().map { it.whole().toInt() }
    val labels = json.at("labels").items().map {
        Label(it.at("name").text(), it.at("word").text(), it.at("token").whole(SIZE).toInt())
    }
    val subspace = json.at("adapter").at("subspace").textOrNull()
    val rank = json.at("adapter").at("rank").whole(SIZE).toInt()
    val alpha = json.at("adapter").at("alpha").real()
    val taskType = json.at("adapter").at("task_type").textOrNull()
    val fanInFanOut = json.at("adapter").at("fan_in_fan_out").flag()
    val modules = json.at("adapter").at("modules").items().map(::AdaptedModule)

    /** Null where the head stays as it is. */
    val trainedHead = (json.at("adapter") as JsonObject)["head"]?.takeIf { it !is JsonNull }?.let(::TrainedHead)

    /** All that trains, in state order. */
    val cores: List<Core> = modules + listOfNotNull(trainedHead)
    val queries = size("queries")
    val batch = size("batch")
    val frozenRows = size("frozen_rows")
    val minTokens = size("min_tokens")
    val maxTokens = size("max_tokens")
    val maxTargets = json.at("max_targets").whole(SIZE).toInt()
    val stateSize = json.at("state_size").whole().toInt()
    val padToken = json.at("pad_token").whole().toInt()
    val maskToken = json.at("mask_token").let { if (it is JsonNull) -1 else it.whole().toInt() }
    val chunk = json.at("chunk").whole(SIZE).toInt()
    val layers = json.at("architecture").at("layers").whole(SIZE).toInt()
    val kvHeads = json.at("architecture").at("kv_heads").whole(SIZE).toInt()
    val head = json.at("architecture").at("head").whole(SIZE).toInt()
    val vocabulary = json.at("architecture").at("vocabulary").whole().toInt()
    val hidden = json.at("architecture").at("hidden").whole(SIZE).toInt()
    val parameters: Int
    val betaMean = json.at("betas").items()[0].real()
    val betaSquare = json.at("betas").items()[1].real()
    val eps = json.at("eps").real()
    val lr = json.at("lr").real()
    val outer = json.at("outer").flag()
    val inner = json.at("inner").flag()

    /** How the frozen weights are stored; as [noise], for a run's description alone. */
    val quantization = oneOf("quantization", "f32", "8da8w", "8da4w", "8da4w-64", "8da4w-128")
    val noise = oneOf("noise", "rademacher", "gaussian")

    init {
        val found = cores.sumOf { it.rows.toLong() * it.columns }
        var next = 0L
        val inOrder = cores.all { (it.offset.toLong() == next).also { _ -> next += it.rows.toLong() * it.columns } }
        val slots = stateSize.toLong() in listOf(found, 2 * found, 3 * found)
        val answers = if (labelWords) labels.size > 1 else labels.isEmpty() && maxTargets > 0 && maxTokens > 1
        val fits = minTokens <= maxTokens && hidden > 0 && 2L * queries * batch <= SIZE
        val rowsFit = trainedHead?.let { head ->
            val words = labels.all { it.token < head.outFeatures }
            head.columns == labels.size && head.rows == hidden && words
        }
        if (found == 0L || !inOrder || !slots || !answers || !fits || rowsFit == false)
            throw Odd("its sizes make no step")
        if (answerAt == "mask" && maskToken < 0) throw Odd("it has no mask_token")
        if (eps <= 0 || lr <= 0 || betaMean !in 0.0..<1.0 || betaSquare !in 0.0..<1.0)
            throw Odd("its settings make no step")
        val other = when (kind) {
            "step" -> "it does not train: take the program.pte beside it"
            "generate" -> "it does not continue text: take the generate.pte of `prge export --generate`"
            else -> "it is no $kind part"
        }
        if (kind == "generate" && (chunk < 1 || layers < 1 || kvHeads.toLong() * head !in 1..SIZE))
            throw Odd("its sizes make no text")
        if (json.at("kind").text() != kind) throw Odd(other)
        parameters = found.toInt()
    }

    /** Whether the answer is a class; else it is text. */
    val labelWords: Boolean get() = objective == "label-words"

    /** Whether an example of text comes with candidates to choose from. */
    val choices: Boolean get() = choicesColumn != ""

    /** Whether the gradient is an estimate, from perturbed copies. */
    val estimates: Boolean get() = gradient == "activations" || gradient == "weights"

    /** Copies of every example in one execution. */
    val copies: Int get() = if (gradient != "weights") 1 else (if (outer) queries else 1) * (if (inner) 2 else 1)

    /** R, the rows of one execution. */
    val rows: Int get() = copies * batch

    /** What a run's files say of the program that they belong to. */
    internal val identity: Map<String, String>
        get() = mapOf("base" to model, "base_sha256" to modelSha256, "adapter_sha256" to adapterSha256)

    private fun size(name: String) = json.at(name).whole(SIZE).toInt().also { if (it < 1) throw Odd("$name is 0") }

    private fun oneOf(name: String, vararg known: String) =
        json.at(name).text().also { if (it !in known) throw Odd("$name is ${json.at(name).short()}") }

    companion object {
        /**
         * Reads a manifest, and checks it.
         *
         * @param where names the file in messages.
         * @param kind "step"; "frozen" for the part that nothing trains; or "generate".
         * @throws UserError it is none of prge's, of another version or kind, or contradicts itself.
         */
        fun read(text: String, where: String, kind: String = "step"): Manifest = try {
            val json = parseJson(text)
            if (json.at("format").text() != "prge") throw Odd("another format")
            val version = json.at("version").real()
            if (version != VERSION.toDouble() && version != OLDEST.toDouble()) {
                val upgrade = if (version > VERSION) "upgrade prge, or " else ""
                throw UserError(
                    "$where has manifest version ${json.at("version").short()}; this prge reads $VERSION: " +
                        "${upgrade}export the program again",
                )
            }
            Manifest(json as JsonObject, kind)
        } catch (e: Odd) {
            throw UserError("$where is not a program made by prge, or by another version of it (${e.message})")
        } catch (e: IndexOutOfBoundsException) {
            throw UserError("$where is not a program made by prge, or by another version of it (a list is too short)")
        }
    }
}
