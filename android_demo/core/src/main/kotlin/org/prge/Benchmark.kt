package org.prge

import java.io.File
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import org.prge.data.Example
import org.prge.loop.StepRecord
import org.prge.program.Manifest

/**
 * Times of a program's step on this device, as a report that `prge bench compare` reads.
 *
 * The report has no measured limits of the machine: there are no products of matrices to time.
 *
 * @property program the contender's name; reports are compared by it.
 * @property tokens T, the length of the rows.
 * @property seconds of each timed step.
 */
class Benchmark(val program: String, val tokens: Int, val seconds: List<Double>) {
    val median: Double get() = seconds.sorted().let { (it[(it.size - 1) / 2] + it[it.size / 2]) / 2 }

    /** The report; [machine] tells of the device, by the names that `prge bench step` uses. */
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

        /**
         * Times a program's step by a run that is thrown away.
         *
         * @param name the contender's.
         * @param scratch a folder for it.
         * @param tokens of each row, or as many as the program takes.
         * @param hear hears how many steps are timed.
         */
        fun of(tuner: FineTuner, name: String, scratch: File, tokens: Int, hear: (Int) -> Unit = {}): Benchmark {
            val m = tuner.manifest
            val length = tokens.coerceIn(m.minTokens, m.maxTokens)
            val seconds = ArrayList<Double>()
            scratch.deleteRecursively()
            scratch.mkdirs()
            try {
                val examples = tuner.pack(File(scratch, "data.prge"), examples(m, length))
                val timed = object : Progress {
                    override fun stepped(record: StepRecord, steps: Int) {
                        seconds += record.seconds
                        hear(steps - 1)
                    }
                }
                // A learning rate that is given need not be measured.
                tuner.train(File(scratch, "run"), examples, Settings(ROUNDS + 1, lr = 1e-6, evalEvery = 0), timed)
            } finally {
                scratch.deleteRecursively()
            }
            // The first step makes buffers.
            return Benchmark(name, length, seconds.drop(1))
        }

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
