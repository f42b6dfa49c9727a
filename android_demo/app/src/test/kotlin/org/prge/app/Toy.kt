package org.prge.app

import java.io.ByteArrayOutputStream
import java.io.File
import java.security.MessageDigest
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import kotlin.math.exp
import kotlin.math.ln
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonArray
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.put
import org.prge.program.Input
import org.prge.program.Loaded
import org.prge.program.Runtime

private val GOLDEN = File("../../tests/golden")
private const val WEIGHTS = 384
private const val HIDDEN = 8
private const val WORDS = 393

/** Numbers of the frozen factors: A [2, 8], and D [8, WEIGHTS / 16]. */
private const val FACTORS = 16 + 8 * WEIGHTS / 16

/**
 * A runtime without native code, for tests of all that is around it. Its programs are files that hold their manifest.
 * Their step is logistic regression on the tokens that a text has; so it learns, and the driver that runs it is the real
 * one.
 *
 * @property pause in milliseconds, before each execution that trains.
 */
class Toy(private val pause: Long = 0) : Runtime {
    override fun load(file: File): Loaded {
        val text = file.readBytes().decodeToString().substringBefore('\n')
        val kind = Json.parseToJsonElement(text).jsonObject.getValue("kind").jsonPrimitive.content
        return object : Loaded {
            override val methods = setOf("forward", "manifest", "frozen")

            override fun prepare(method: String) = Unit

            override fun text(method: String) = text

            override fun numbers(method: String) = FloatArray(FACTORS) { it.toFloat() }

            override fun forward(inputs: List<Input>) = when (kind) {
                "step" -> step(inputs)
                "frozen" -> frozen(inputs)
                else -> next(inputs)
            }

            override fun close() = Unit
        }
    }

    private fun frozen(inputs: List<Input>): List<FloatArray> =
        listOf(FloatArray((inputs[0] as Input.Longs).numbers.size * HIDDEN))

    /** The token behind the last one, or one that is as far away as the parameters say. */
    private fun next(inputs: List<Input>): List<FloatArray> {
        val shift = (100 * (inputs[0] as Input.Floats).numbers.sumOf { kotlin.math.abs(it.toDouble()) }).toInt()
        val tokens = (inputs[1] as Input.Longs).numbers
        val logits = FloatArray(WORDS).also { it[((tokens.last() + 1 + shift) % WORDS).toInt()] = 1f }
        return listOf(logits, FloatArray(HIDDEN * tokens.size), FloatArray(HIDDEN * tokens.size))
    }

    private fun step(inputs: List<Input>): List<FloatArray> {
        val state = (inputs[0] as Input.Floats).numbers
        val tokens = inputs[2] as Input.Longs
        val targets = inputs[4] as Input.Longs
        val lr = (inputs[inputs.size - 2] as Input.Floats).numbers[0]
        if (lr > 0) Thread.sleep(pause)
        if (targets.shape.size == 2) return listOf(
            // Targets are tokens. Then every number moves to 1, whatever they are.
            FloatArray(state.size) { state[it] - lr * (state[it] - 1) },
            FloatArray(targets.shape[0].toInt()) { state.map { one -> (one - 1) * (one - 1) }.average().toFloat() },
            FloatArray(targets.numbers.size),
        )
        val (rows, length) = tokens.shape.map { it.toInt() }
        val new = state.copyOf()
        val losses = FloatArray(rows)
        val scores = FloatArray(2 * rows)
        for (row in 0 until rows) {
            val places = IntArray(length) { (tokens.numbers[row * length + it] * 31 % WEIGHTS).toInt() }
            var logit = 0.0
            for (place in places) logit += SCALE * state[place]
            val right = 1 / (1 + exp(-logit))
            val target = targets.numbers[row].toInt()
            losses[row] = -ln((if (target == 1) right else 1 - right).coerceAtLeast(1e-9)).toFloat()
            scores[2 * row + 1] = logit.toFloat()
            for (place in places) new[place] -= (lr * SCALE * (right - target) / rows).toFloat()
        }
        return listOf(new, losses, scores)
    }

    companion object {
        /** The golden manifest of a program with labels. */
        private const val LABELS = "classification"
        private const val SCALE = 3.0

        /** A zip of a folder `NAME/` with a program for the demo's labels. */
        fun zip(
            name: String = "toy", generates: Boolean = false, golden: String = LABELS, text: (String) -> String = { it },
            change: (String, ByteArray) -> ByteArray? = { _, bytes -> bytes },
        ): ByteArray {
            val bytes = ByteArrayOutputStream()
            val kept = files(golden, text).filterKeys { generates || it != "generate.pte" }
            ZipOutputStream(bytes).use { zip ->
                for ((file, content) in kept) {
                    zip.putNextEntry(ZipEntry("$name/$file"))
                    zip.write(change(file, content) ?: continue)
                }
            }
            return bytes.toByteArray()
        }

        /** The files of a program; [golden] is the name of the golden manifest that it is like, and [change] changes it. */
        fun files(golden: String = LABELS, change: (String) -> String = { it }): Map<String, ByteArray> {
            fun manifest(vararg more: Pair<String, JsonElement>) =
                change(manifest(golden, more.toMap())).toByteArray()
            val frozen = sealed(manifest("kind" to JsonPrimitive("frozen")))
            val step = sealed(manifest("frozen_sha256" to JsonPrimitive(sha256(frozen.first))))
            return mapOf(
                "program.pte" to step.second, "frozen.pte" to frozen.second,
                "generate.pte" to sealed(manifest("kind" to JsonPrimitive("generate"), "chunk" to JsonPrimitive(16))).second,
                "tokenizer.json" to File(GOLDEN, "tokenizers/bpe.json").readBytes(),
                "chat.json" to File(GOLDEN, "chat.json").readBytes(),
            )
        }

        private fun manifest(like: String, more: Map<String, JsonElement>): String {
            val golden = Json.parseToJsonElement(File(GOLDEN, "manifests.json").readText()).jsonObject
                .getValue(like).jsonObject
            val labels = buildJsonArray {
                for ((name, label) in listOf("later", "today").zip(golden.getValue("labels").jsonArray))
                    add(JsonObject(label.jsonObject + ("name" to JsonPrimitive(name))))
            }
            val adapter = golden.getValue("adapter").jsonObject
            val module = JsonObject(
                adapter.getValue("modules").jsonArray[0].jsonObject +
                    ("core" to buildJsonArray { add(JsonPrimitive(16)); add(JsonPrimitive(WEIGHTS / 16)) }),
            )
            val sizes = buildJsonObject {
                put("state_size", WEIGHTS)
                put("batch", 8)
                put("gradient", if (like == LABELS) "exact" else "full")
                put("optimizer", "sgd")
                put("lr", 1.0) // bounds the rate that a run finds
                put("max_tokens", 200)
                if (like == LABELS) put("template", "{text} This is")
                put("adapter", JsonObject(adapter + ("modules" to buildJsonArray { add(module) })))
                put("labels", labels)
            }
            return JsonObject(golden + sizes + more).toString() + "\n"
        }

        private fun sealed(content: ByteArray): Pair<ByteArray, ByteArray> =
            content to content + "prge-seal".toByteArray() + MessageDigest.getInstance("SHA-256").digest(content)

        private fun sha256(content: ByteArray) =
            MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }
    }
}
