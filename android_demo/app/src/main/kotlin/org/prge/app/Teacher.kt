package org.prge.app

import java.io.File
import org.prge.FineTuner
import org.prge.Outcome
import org.prge.Progress
import org.prge.Settings
import org.prge.UserError
import org.prge.examples.Encoder
import org.prge.examples.Source
import org.prge.loop.StepRecord
import org.prge.program.Runtime

/** The driver, as the app uses it. */
class Teacher(private val runtime: () -> Runtime) : Teaching {
    /** Begins what a run was asked to do, or goes on with it. */
    override fun teach(run: Kept, progress: Progress): Outcome {
        val asked = Asked.read(run)
        return open(asked.program).use { tuner ->
            if (run.begun) return tuner.resume(run.run, tuner.examples(run.data), progress, patience = 0)
            val given = Source(asked.data, asked.dev).read(encoder(tuner, asked.program))
            val examples = tuner.pack(run.data, given.train, given.dev, given.dropped)
            val settings = Settings(asked.steps, evalEvery = maxOf(1, asked.steps / CHECKS))
            // All steps that were asked for: a few kept messages are too few to tell that it gets no better.
            tuner.train(run.run, examples, settings, progress, patience = 0)
        }
    }

    /** Opens a program. The caller closes it. */
    fun open(program: File): FineTuner = FineTuner.open(program, runtime())

    /**
     * What a program answers to a text before and after a run.
     *
     * @property labels what it can answer.
     * @property before, after f32[labels], shares that sum to 1.
     */
    class Answers(val labels: List<String>, val before: FloatArray, val after: FloatArray)

    /** What is answered to a text. */
    fun ask(run: Kept, text: String): Answers {
        val program = Asked.read(run).program
        return open(program).use { tuner ->
            val labels = tuner.manifest.labels.map { it.name }
            if (labels.isEmpty()) throw UserError("this program writes text; here only those that choose a label answer")
            val examples = encoder(tuner, program).run { encode(mapOf("text" to text), "your message", labelled = false).map(::fit) }
            val (before, after) = listOf(null, run.run).map { tuner.predict(it, examples).first().scores }
            Answers(labels, shares(before), shares(after))
        }
    }

    /**
     * Times a program's step by a run that is thrown away.
     *
     * @param scratch a folder for it.
     * @param tokens of each row, or as many as the program takes.
     * @param hear hears how many steps are timed.
     */
    fun time(program: File, scratch: File, tokens: Int, hear: (Int) -> Unit): Benchmark = open(program).use { tuner ->
        val m = tuner.manifest
        val length = tokens.coerceIn(m.minTokens, m.maxTokens)
        val seconds = ArrayList<Double>()
        scratch.deleteRecursively()
        scratch.mkdirs()
        try {
            val examples = tuner.pack(File(scratch, "data.prge"), Benchmark.examples(m, length))
            val timed = object : Progress {
                override fun stepped(record: StepRecord, steps: Int) {
                    seconds += record.seconds
                    hear(steps - 1)
                }
            }
            // A learning rate that is given need not be measured.
            tuner.train(File(scratch, "run"), examples, Settings(Benchmark.ROUNDS + 1, lr = 1e-6, evalEvery = 0), timed)
        } finally {
            scratch.deleteRecursively()
        }
        // The first step makes buffers.
        Benchmark(program.name, length, seconds.drop(1))
    }

    private fun encoder(tuner: FineTuner, program: File) = Encoder.of(tuner.manifest.json.toString(), program, true)

    companion object {
        /** How often a run is evaluated. */
        const val CHECKS = 10

        /** Logits as shares that sum to 1. */
        fun shares(scores: FloatArray): FloatArray {
            val most = scores.max()
            val powers = scores.map { Math.exp((it - most).toDouble()) }
            return FloatArray(scores.size) { (powers[it] / powers.sum()).toFloat() }
        }
    }
}
