package org.prge.run

import java.io.File
import org.prge.Settings
import org.prge.UserError
import org.prge.data.Batches
import org.prge.data.Examples
import org.prge.data.HIDDEN
import org.prge.data.hiddenFile
import org.prge.files.dump
import org.prge.files.reading
import org.prge.files.replace
import org.prge.files.sync
import org.prge.files.writing
import org.prge.loop.Best
import org.prge.loop.Evaluation
import org.prge.loop.Guard
import org.prge.loop.StepRecord
import org.prge.loop.TrainConfig
import org.prge.loop.evaluate
import org.prge.loop.meanOf
import org.prge.loop.proposeLr
import org.prge.program.ADAPTER
import org.prge.program.StepProgram
import org.prge.program.finite
import org.prge.program.readState
import org.prge.program.saveAdapter
import org.prge.program.stateBytes

/** Hears how far a run is while it does something long, in tokens or rows. */
internal class Hears(val reading: (Long, Long) -> Unit, val evaluating: (Int, Int) -> Unit)

/**
 * A run and its folder. When [step] returns, the step is in the journal and its state on disk. So a process may end at
 * any moment, and another one goes on.
 */
internal class Run private constructor(
    private val folder: File,
    private val program: StepProgram,
    private val examples: Examples,
    private val hears: Hears,
    private val journal: Journal,
    val config: TrainConfig,
    stands: Snapshot,
    records: List<StepRecord>,
) : AutoCloseable {
    private val m = program.manifest
    private val batches = Batches(examples.train, m.batch, config.seed)
    private val snapshots = Snapshots(folder, m, config.after)
    private val guard = Guard(m.batch, m.labels.size)
    private var state = stands.state
    private var good = stands.good
    private val made = ArrayList(records)

    /** The best evaluation so far. */
    val best = Best()

    init {
        for (r in records) {
            guard.note(r.loss, r.backedOff)
            r.before?.let { best.note(0, it) }
            r.dev?.let { best.note(r.step + 1, it) }
        }
    }

    /** All steps so far. */
    val records: List<StepRecord> get() = made

    val done: Boolean get() = made.size >= config.steps

    /** The best state's file; the last state's where nothing was evaluated. */
    val stateFile: File get() = File(folder, if (best.steps == null) STATE else BEST)

    /** The folder of the adapter, which [finish] writes. */
    val adapter: File get() = File(folder, ADAPTER)

    /**
     * Makes one step, and the evaluations that are due beside it. After an error, go on with a new object.
     *
     * @throws UserError the program or the disk fails, or smaller learning rates have not helped.
     */
    fun step(): StepRecord {
        val step = made.size
        val before = if (step == 0) evaluated(0) else null
        val began = System.nanoTime()
        val places = batches.at(config.after.toLong() + step)
        val batch = places.map { examples.train[it] }
        val seed = config.seedAt(step, m.queries)
        val lr = guard.scale * config.lrAt(step, m)
        val result = program.step(batch, state, seed, lr, config.eps)
        val loss = meanOf(result.losses)
        val seconds = (System.nanoTime() - began) / 1e9
        val decision = guard.watch(loss, finite(result.state))
        if (decision.good) good = state
        state = if (decision.backOff) good!! else result.state
        val length = maxOf(m.minTokens, batch.maxOf { it.tokens.size })
        val dev = if (config.evaluatesAfter(step)) evaluated(step + 1) else null
        val record = StepRecord(
            step, loss, lr, config.eps, seed, length.toLong() * m.rows, seconds, result.losses, places,
            decision.backOff, dev, before,
        )
        journal.append(toJson(record))
        made += record
        save()
        if (!guard.givesUp) return record
        sync()
        throw UserError(
            "step ${made.size}: smaller learning rates did not help; the best state is kept. " +
                "Is --eps or --lr far from what `prge calibrate` proposes?",
        )
    }

    /** Writes the state through to the disk if its evaluation is the best so far; then the journal may tell of it. */
    private fun evaluated(steps: Int): Evaluation? {
        if (examples.dev.isEmpty()) return null
        val found = evaluate(program, state, examples.dev, hears.evaluating)
        if (best.note(steps, found)) replace(File(folder, BEST), stateBytes(m, state, config.after + steps))
        return found
    }

    private fun save() = snapshots.save(Snapshot(made.size, state, good), journal)

    /** Writes everything through to the disk. */
    fun sync() {
        journal.sync()
        for (path in listOf(File(folder, STATE), folder)) writing(path) { sync(path) }
    }

    /**
     * Writes everything through to the disk, and the adapter of the best state.
     *
     * @throws UserError a file cannot be written; or that of the best state is damaged or gone.
     */
    fun finish() {
        sync()
        val kept = if (best.steps == null) state else readState(stateFile, m).numbers
        saveAdapter(adapter, m, program.frozenFactors(), kept)
    }

    override fun close() = journal.close()

    companion object {
        /**
         * Begins a run in a new folder.
         *
         * @throws UserError the folder is not empty, something does not fit, or it cannot be written. Of a run that
         *     does not begin, nothing stays.
         */
        fun begin(folder: File, program: StepProgram, examples: Examples, s: Settings, hears: Hears): Run {
            s.check(program.manifest)
            val from = s.from?.let { reading(it) { it.canonicalFile } }
            val first = from?.let { readState(stateIn(it), program.manifest) }
            makeFolder(folder)
            val journal = Journal(File(folder, LOG))
            try {
                val m = program.manifest
                val state = first?.numbers ?: program.initialState()
                val eps = s.eps ?: m.eps
                val cache = hiddenFile(folder, s.cache, m, examples)
                prepare(folder, cache, program, examples, hears)
                val lr = s.lr ?: proposeLr(program, examples.train, state, eps)
                val config = TrainConfig(s.steps, lr, eps, s.seed, s.evalEvery, first?.steps ?: 0)
                val run = Run(folder, program, examples, hears, journal, config, Snapshot(0, state, null), emptyList())
                val start = File(folder, START)
                if (from == null) start.delete() else replace(start, stateBytes(m, state, config.after))
                run.save()
                val paths = listOf(program.file, examples.file).map { it.canonicalPath }
                val described = description(paths[0], paths[1], m, examples, config, from?.path, cache)
                replace(File(folder, CONFIG), (dump(described) + "\n").toByteArray())
                return run
            } catch (e: Throwable) {
                journal.close()
                File(folder, HIDDEN).delete()
                if (folder.list().contentEquals(arrayOf(LOG))) folder.deleteRecursively()
                throw e
            }
        }

        /**
         * Goes on behind the last whole step of a run, whichever driver made it.
         *
         * @throws UserError the folder holds no run, or one of another program or other examples, or a damaged one; or
         *     it is in use.
         */
        fun resume(folder: File, program: StepProgram, examples: Examples, hears: Hears): Run {
            val described = settingsOf(folder, program, examples)
            val journal = Journal(File(folder, LOG))
            try {
                val records = ArrayList<StepRecord>()
                journal.read { records += toRecord(it) }
                val stands = newest(folder, program.manifest, records.size)
                journal.keep(stands.steps)
                prepare(folder, described.cache, program, examples, hears)
                return Run(
                    folder, program, examples, hears, journal, described.config, stands, records.take(stands.steps),
                )
            } catch (e: Throwable) {
                journal.close()
                throw e
            }
        }

        /** The state's file that a path names: itself, or the best or the last one of a run's folder. */
        fun stateIn(path: File): File {
            if (!path.isDirectory) return path
            return File(path, BEST).takeIf { it.isFile } ?: File(path, STATE)
        }

        /**
         * The frozen part runs, if it is to run once, and is gone before the weights of the other are packed. Then the
         * longest row runs, so that the runtime makes its buffers now: it would have two of them while it enlarges one.
         */
        private fun prepare(folder: File, cache: String?, program: StepProgram, examples: Examples, hears: Hears) {
            program.forget()
            if (cache != null) program.keep(folder.resolve(cache), examples, hears.reading)
            val longest = examples.rows.maxBy { it.tokens.size }
            program.execute(List(program.manifest.rows) { longest }, program.initialState(), 0, 0.0, 0.0)
        }
    }
}
