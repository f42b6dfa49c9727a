package org.prge

import java.io.File
import java.security.MessageDigest
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import org.prge.program.Input
import org.prge.program.Loaded
import org.prge.program.Runtime

/**
 * A runtime whose programs are files of JSON: the manifest that they say. A step moves every number of the state
 * towards 1, and the loss is the mean square of what is left. A text of even tokens is of class 1.
 */
class FakeRuntime : Runtime {
    /** Executions so far, of all programs. */
    var executions = 0
        private set

    override fun load(file: File): Loaded = object : Loaded {
        private val text = file.readBytes().decodeToString().substringBefore("prge-seal")

        override val methods = setOf("manifest", "forward", "frozen")

        override fun prepare(method: String) = Unit

        override fun text(method: String) = text

        override fun numbers(method: String) = FloatArray(FROZEN) { 0.5f - it }

        override fun forward(inputs: List<Input>): List<FloatArray> {
            executions++
            return if (inputs.size == 1) listOf(hidden(inputs[0] as Input.Longs)) else step(inputs)
        }

        override fun close() = Unit
    }

    private fun hidden(tokens: Input.Longs) =
        FloatArray(tokens.numbers.size * WIDTH) { tokens.numbers[it / WIDTH].toFloat() }

    private fun step(inputs: List<Input>): List<FloatArray> {
        val state = (inputs[0] as Input.Floats).numbers
        val hidden = inputs[1] as Input.Floats
        val lr = (inputs[inputs.size - 2] as Input.Floats).numbers[0]
        val rows = hidden.shape[0].toInt()
        val each = hidden.numbers.size / rows
        val loss = state.map { (it - 1) * (it - 1) }.average().toFloat()
        val scores = FloatArray(2 * rows) { if (it % 2 == 0) 0f else 0.5f - hidden.numbers[it / 2 * each] % 2 }
        return listOf(FloatArray(state.size) { state[it] - lr * (state[it] - 1) }, FloatArray(rows) { loss }, scores)
    }

    companion object {
        private const val WIDTH = 8

        /** Numbers of the frozen factors: A [2, 8] and D [8, 3]. */
        private const val FROZEN = 40

        /** What a step's program says. */
        val manifest: Map<String, JsonElement> =
            Json.parseToJsonElement(File("../../tests/golden/manifests.json").readText()).jsonObject
                .getValue("classification").jsonObject

        /** Writes both parts of a program into a folder. */
        fun program(folder: File): File {
            folder.mkdirs()
            val frozen = seal(File(folder, "frozen.pte"), manifest + ("kind" to JsonPrimitive("frozen")))
            seal(File(folder, "program.pte"), manifest + ("frozen_sha256" to JsonPrimitive(frozen)))
            return folder
        }

        fun seal(file: File, manifest: Map<String, JsonElement>): String {
            val bytes = JsonObject(manifest).toString().toByteArray()
            val digest = MessageDigest.getInstance("SHA-256").digest(bytes)
            file.writeBytes(bytes + "prge-seal".toByteArray() + digest)
            return digest.joinToString("") { "%02x".format(it) }
        }
    }
}
