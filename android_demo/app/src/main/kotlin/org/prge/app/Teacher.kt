package org.prge.app

import java.io.File
import org.prge.Benchmark
import org.prge.FineTuner
import org.prge.Outcome
import org.prge.Progress
import org.prge.Settings
import org.prge.UserError
import org.prge.data.Examples
import org.prge.examples.Encoder
import org.prge.examples.Source
import org.prge.program.GENERATE
import org.prge.program.Runtime
import org.prge.program.Writing
import org.prge.tokenizer.TextStream

/** The driver, as the app uses it. */
class Teacher(private val runtime: () -> Runtime) : Teaching {
    /** Begins what a run was asked to do, or goes on with it. */
    override fun teach(run: Kept, progress: Progress): Outcome {
        val asked = Asked.read(run)
        return open(asked.program).use { tuner ->
            if (run.begun) return tuner.resume(run.run, tuner.examples(run.data), progress, patience = 0)
            val examples = examples(tuner, asked, run)
            val settings = Settings(asked.steps, evalEvery = maxOf(1, asked.steps / CHECKS))
            // All steps that were asked for: a few kept messages are too few to tell that it gets no better.
            tuner.train(run.run, examples, settings, progress, patience = 0)
        }
    }

    /** A copy of packed examples; or what the phone itself reads, packed. */
    private fun examples(tuner: FineTuner, asked: Asked, run: Kept): Examples {
        if (asked.data.extension == PACKED) return tuner.examples(asked.data.copyTo(run.data, overwrite = true))
        val encoder = encoder(tuner, asked.program)
        val given = Source(asked.data, asked.dev).read(encoder)
        run.told.writeText(encoder.told.joinToString("\n"))
        return tuner.pack(run.data, given.train, given.dev, given.dropped)
    }

    /** Opens a program. The caller closes it. */
    fun open(program: File): FineTuner = FineTuner.open(program, runtime())

    /**
     * What a program answers to a text before and after a run.
     *
     * @property labels what it can answer; empty for a program that writes text.
     * @property before, after f32[labels], shares that sum to 1.
     */
    class Answers(val labels: List<String>, val before: FloatArray, val after: FloatArray)

    /** What a run's program is asked with; see [org.prge.examples.Form.asked]. */
    fun columns(run: Kept): List<String> = askedOf(Asked.read(run).program)

    /** What is answered to texts of the [columns], by a program that chooses a label. */
    fun ask(run: Kept, texts: List<String>): Answers {
        val program = Asked.read(run).program
        return open(program).use { tuner ->
            val labels = tuner.manifest.labels.map { it.name }
            if (labels.isEmpty()) return Answers(labels, FloatArray(0), FloatArray(0))
            val record = columns(run).zip(texts).toMap()
            val examples = encoder(tuner, program).run { encode(record, "your message", labelled = false).map(::fit) }
            val (before, after) = listOf(null, run.run).map { tuner.predict(it, examples).first().scores }
            Answers(labels, shares(before), shares(after))
        }
    }

    /** Whether a run's program can write text: it has a generate.pte. */
    fun writes(run: Kept): Boolean = File(Asked.read(run).program, GENERATE).isFile

    /**
     * Continues texts of the [columns], or answers them, as the program learned it. Its generate.pte has the weights
     * once more, so the program is opened anew.
     *
     * @param piece hears whether the text is that of before or after the run, and each piece of it. False stops.
     */
    fun write(run: Kept, texts: List<String>, piece: (after: Boolean, String) -> Boolean) {
        val program = Asked.read(run).program
        open(program).use { tuner ->
            val encoder = encoder(tuner, program)
            val prompt = encoder.asked(texts, "your message")
            for ((after, state) in listOf(false to null, true to run.run)) {
                val stream = TextStream(encoder.tokenizer, prompt)
                var goesOn = true
                tuner.generate(state, prompt, Writing(MOST)) { token ->
                    goesOn = piece(after, stream.next(token))
                    goesOn
                }
                if (!goesOn) return
            }
        }
    }

    /** Times a program's step; see [Benchmark.of]. */
    fun time(program: File, scratch: File, tokens: Int, hear: (Int) -> Unit): Benchmark =
        open(program).use { Benchmark.of(it, program.name, scratch, tokens, hear) }

    private fun encoder(tuner: FineTuner, program: File) = Encoder.of(tuner.manifest.json.toString(), program, true)

    companion object {
        /** How often a run is evaluated. */
        const val CHECKS = 10

        /** The ending of a file that `prge pack` made. */
        private const val PACKED = "prge"

        /** Tokens that are written, at most. */
        private const val MOST = 64

        /** Logits as shares that sum to 1. */
        fun shares(scores: FloatArray): FloatArray {
            val most = scores.max()
            val powers = scores.map { Math.exp((it - most).toDouble()) }
            return FloatArray(scores.size) { (powers[it] / powers.sum()).toFloat() }
        }
    }
}
