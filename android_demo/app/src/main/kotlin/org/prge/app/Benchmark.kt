package org.prge.app

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put

/**
 * Times of a program's step on this phone, as a report that `prge bench compare` reads.
 *
 * The report has no measured limits of the machine: the app has no products of matrices to time.
 *
 * @property program the contender's name; reports are compared by it.
 * @property tokens T, the length of the rows.
 * @property seconds of each timed step.
 */
class Benchmark(val program: String, val tokens: Int, val seconds: List<Double>) {
    val median: Double get() = seconds.sorted().let { (it[(it.size - 1) / 2] + it[it.size / 2]) / 2 }

    fun report(machine: Map<String, String>): JsonObject = buildJsonObject {
        put("machine", JsonObject(machine.mapValues { JsonPrimitive(it.value) }))
        put("limits", JsonObject(emptyMap()))
        put("sizes", JsonObject(emptyMap()))
        put(
            "rows",
            JsonArray(
                listOf(
                    buildJsonObject {
                        put("contender", program)
                        put("kind", "program")
                        put("tokens", tokens)
                        put("seconds", median)
                        put("least", seconds.min())
                        put("most", seconds.max())
                    },
                ),
            ),
        )
    }

    companion object {
        const val ROUNDS = 7

        /** Times [step]; a first one, which packs weights and makes buffers, is not counted. */
        fun time(program: String, tokens: Int, hear: (Int) -> Unit, step: () -> Unit): Benchmark {
            step()
            val seconds = List(ROUNDS) { round ->
                val began = System.nanoTime()
                step()
                hear(round + 1)
                (System.nanoTime() - began) / 1e9
            }
            return Benchmark(program, tokens, seconds)
        }
    }
}
