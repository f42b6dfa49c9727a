package org.prge.app

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import org.prge.data.Example
import org.prge.program.Manifest

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

        /** As many examples as two steps take. What they say does not matter to the time. */
        fun examples(m: Manifest, length: Int): List<Example> {
            val tokens = IntArray(length) { 1 + (it * 7) % (m.vocabulary - 1) }
            // A row says where its answer is by one mask.
            for (i in tokens.indices) if (tokens[i] == m.maskToken || tokens[i] == m.padToken) tokens[i] = 0
            if (m.answerAt == "mask") tokens[length - 1] = m.maskToken
            return List(2 * m.batch) {
                val row = Example(tokens, -1, if (m.labelWords) 0 else 1)
                when {
                    m.labelWords -> row.copy(label = it % m.labels.size)
                    m.choicesColumn.isNotEmpty() -> row.copy(label = 0, candidates = listOf(row, row))
                    else -> row
                }
            }
        }
    }
}
