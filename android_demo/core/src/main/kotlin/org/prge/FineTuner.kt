package org.prge

import java.io.File
import org.prge.data.Example
import org.prge.data.Examples
import org.prge.loop.Evaluation
import org.prge.loop.Prediction
import org.prge.loop.StepRecord
import org.prge.program.ExecuTorch
import org.prge.program.GENERATE
import org.prge.program.GenerateProgram
import org.prge.program.Manifest
import org.prge.program.Runtime
import org.prge.program.StepProgram
import org.prge.program.Writing
import org.prge.program.readState
import org.prge.run.Hears
import org.prge.run.Run
import org.prge.run.sourcesOf

/**
 * What a run is asked to do.
 *
 * @property lr of the first step, falling linearly to zero; null to measure it on a few batches.
 * @property eps size of the perturbation; null for the program's.
 * @property seed of the batches and the directions, from 0 to 2^31 - 1.
 * @property evalEvery steps between evaluations on the dev examples; 0 for one at the end alone.
 * @property from a run's folder or a state's file to begin with, instead of the program's own state.
 * @property cache where hidden states are kept: "off", a size as "2GB", or a folder that runs share; "" for 4 GB at
 *     most.
 */
data class Settings(
    val steps: Int = 300,
    val lr: Double? = null,
    val eps: Double? = null,
    val seed: Long = 0,
    val evalEvery: Int = 50,
    val from: File? = null,
    val cache: String = "",
) {
    internal fun check(m: Manifest) {
        if (eps != null && !m.estimates)
            throw UserError("the gradient of this program is exact and perturbs nothing; leave --eps out")
        fun refuse(name: String, value: Any?): Nothing = throw UserError("--$name $value is no number that it takes")
        if (steps < 1) refuse("steps", steps)
        if (lr != null && !(lr > 0 && lr.isFinite())) refuse("lr", lr)
        if (eps != null && !(eps > 0 && eps.isFinite())) refuse("eps", eps)
        if (seed !in 0..Int.MAX_VALUE.toLong()) refuse("seed", seed)
        if (evalEvery < 0) refuse("eval-every", evalEvery)
    }
}

/** Hears how a run goes, on the thread that makes it. */
interface Progress {
    /** Asked before every execution. When it is false, the run stops; all whole steps are on disk. */
    fun goesOn(): Boolean = true

    /** While the frozen layers read all texts, once before the first step: how many tokens are done, of how many. */
    fun reading(done: Long, all: Long) {}

    /** While the dev examples are evaluated: how many rows are done, and of how many. */
    fun evaluating(done: Int, all: Int) {}

    /** After every step, when it is on disk; also the evaluations beside it are in the record. */
    fun stepped(record: StepRecord, steps: Int) {}
}

/**
 * What has become of a run.
 *
 * @property completed whether all steps are made; else [FineTuner.resume] goes on.
 * @property settled whether it stopped because it got no better for so many evaluations.
 * @property steps how many are made.
 * @property lr of the first step, as given or measured; null where the run was stopped before it began.
 * @property records all steps, those before a resume included.
 * @property before the evaluation before the first step; null without dev examples.
 * @property best the best evaluation; its state is [state].
 * @property bestSteps behind how many steps that was.
 * @property state the file of the best state, or of the last one where nothing was evaluated.
 * @property adapter the folder of the PEFT adapter of that state; null before the run has come to its end.
 */
class Outcome(
    val completed: Boolean,
    val settled: Boolean,
    val steps: Int,
    val lr: Double?,
    val records: List<StepRecord>,
    val before: Evaluation?,
    val best: Evaluation?,
    val bestSteps: Int?,
    val state: File?,
    val adapter: File?,
)

/**
 * A program that fine-tunes itself, open on a runtime. Use it from one thread at a time, and not from the main thread:
 * [open] packs weights, a step takes about a second. Everything throws a [UserError] with a sentence for the user.
 */
class FineTuner private constructor(private val program: StepProgram, private val runtime: Runtime) : AutoCloseable {
    private val beside = File(program.file.absoluteFile.parentFile, GENERATE)
    private val generator = lazy { generateProgram() }

    /** What the program says about itself. */
    val manifest: Manifest get() = program.manifest

    /** Seconds that the runtime's executions of the step have taken so far. */
    val executionSeconds: Double get() = program.executionSeconds

    /**
     * Writes examples into a packed file. A run names that file, so that it can be resumed: keep the two together.
     *
     * @param train one or more.
     * @param dev to evaluate on; may be empty.
     * @param dropped how many training examples were left out because they are in [dev].
     */
    fun pack(file: File, train: List<Example>, dev: List<Example> = emptyList(), dropped: Int = 0): Examples = enough {
        if (train.isEmpty()) throw UserError("there are no examples to train on")
        check(train + dev)
        Examples(file, train, dev, dropped).write(manifest)
        examples(file)
    }

    /** Reads a packed file, of this program. */
    fun examples(file: File): Examples = enough { Examples.read(file, manifest) }

    /**
     * Begins a run in a new or empty folder, and makes its steps until it is done or [Progress.goesOn] says no.
     *
     * @param patience so many evaluations in a row that are no better than the best one stop the run too; 0 for never.
     */
    fun train(
        run: File, examples: Examples, settings: Settings = Settings(), progress: Progress = object : Progress {},
        patience: Int = PATIENCE,
    ): Outcome = go(progress, patience) { Run.begin(run, program, examples, settings, it) }

    /** Goes on with a run of this program, whichever driver began it; [examples] are those that it was begun with. */
    fun resume(
        run: File, examples: Examples = examples(sources(run).second), progress: Progress = object : Progress {},
        patience: Int = PATIENCE,
    ): Outcome = go(progress, patience) { Run.resume(run, program, examples, it) }

    /**
     * Evaluates a state on examples with labels.
     *
     * @param state a run's folder, whose best state is taken, or a state's file; null for the one that runs begin with.
     */
    fun evaluate(state: File?, examples: List<Example>): Evaluation = enough {
        if (examples.isEmpty()) throw UserError("there are no examples to evaluate on")
        check(examples)
        org.prge.loop.evaluate(program, numbers(state), examples)
    }

    /** What a state answers to each of some examples, whose labels may be -1. */
    fun predict(state: File?, examples: List<Example>): List<Prediction> = enough {
        check(examples)
        org.prge.loop.predict(program, numbers(state), examples)
    }

    /** Whether there is a generate.pte beside the program, for [generate]. */
    val generates: Boolean get() = beside.isFile

    /**
     * Continues a prompt, up to a token that ends a text, or to the context's end. The weights that it packs stay in
     * memory until [close], beside those of steps that were made.
     *
     * @param state as for [evaluate].
     * @param prompt at least one token; a chat's ends where the assistant begins to speak.
     * @param heard hears each token as it comes, for a [org.prge.tokenizer.TextStream]; false stops.
     * @return the tokens, without the prompt.
     */
    fun generate(
        state: File?, prompt: IntArray, writing: Writing = Writing(), heard: (Int) -> Boolean = { true },
    ): List<Int> = enough {
        check(listOf(Example(prompt)))
        val writer = generator.value
        val found = ArrayList<Int>()
        for (token in writer.generate(prompt, numbers(state), writing)) {
            found += token
            if (!heard(token)) break
        }
        found
    }

    /** Refuses tokens that the model has no embedding of: what the runtime reads there is anything. */
    private fun check(examples: List<Example>) {
        val unknown = examples.flatMap { it.rows }.firstNotNullOfOrNull { row ->
            row.tokens.firstOrNull { it !in 0 until manifest.vocabulary }
        } ?: return
        throw UserError(
            "$unknown is none of the model's ${manifest.vocabulary} tokens; encode texts with the tokenizer beside the program",
        )
    }

    private fun generateProgram(): GenerateProgram {
        val found = GenerateProgram(beside, runtime)
        val (m, other) = manifest to found.manifest
        if (other.identity == m.identity && other.stateSize == m.stateSize && other.parameters == m.parameters) return found
        found.close()
        throw UserError("$beside continues text of another program than ${program.file}; copy both again")
    }

    override fun close() {
        if (generator.isInitialized()) generator.value.close()
        program.close()
    }

    private fun numbers(state: File?): FloatArray =
        if (state == null) program.initialState() else readState(Run.stateIn(state), manifest).numbers

    private fun go(progress: Progress, patience: Int, open: (Hears) -> Run): Outcome = enough {
        program.beforeEach = { if (!progress.goesOn()) throw Stopped() }
        var run: Run? = null
        var settled = false
        try {
            run = open(Hears(progress::reading, progress::evaluating))
            while (!run.done && !settled && progress.goesOn()) {
                val record = run.step()
                settled = patience > 0 && record.dev != null && run.best.waited >= patience
                progress.stepped(record, run.records.size)
            }
            if (run.done || settled) run.finish()
        } catch (e: Stopped) { // between two executions; the step that was begun is made anew by a resume
        } finally {
            program.beforeEach = {}
            run?.close()
        }
        outcome(run, settled)
    }

    private fun outcome(run: Run?, settled: Boolean): Outcome {
        if (run == null) return Outcome(false, false, 0, null, emptyList(), null, null, null, null, null)
        return Outcome(
            run.done, settled, run.records.size, run.config.lr, run.records, run.records.firstOrNull()?.before,
            run.best.evaluation, run.best.steps, run.stateFile, run.adapter.takeIf { run.done || settled },
        )
    }

    private class Stopped : Exception()

    companion object {
        /** Evaluations in a row without a better one that stop a run, unless something else is asked. */
        const val PATIENCE = 4

        /**
         * Opens a program.
         *
         * @param folder with program.pte and frozen.pte, or the path of the former.
         * @param threads of all programs of the process; 0 leaves the choice to ExecuTorch.
         */
        fun open(folder: File, threads: Int = 0): FineTuner = open(folder, ExecuTorch(threads))

        /** As above, on another runtime: tests of an app may bring their own. */
        fun open(folder: File, runtime: Runtime): FineTuner =
            enough { FineTuner(StepProgram(folder, runtime), runtime) }

        /** Where the program and the packed examples of a run are, as its folder says. */
        fun sources(run: File): Pair<File, File> = sourcesOf(run)
    }
}

/** Runs [block]. That it needs more memory than there is, is a sentence too: files from anywhere may claim any size. */
private inline fun <T> enough(block: () -> T): T = try {
    block()
} catch (e: OutOfMemoryError) {
    throw UserError("this needs more memory than the app may take; take fewer examples or a smaller program")
}
