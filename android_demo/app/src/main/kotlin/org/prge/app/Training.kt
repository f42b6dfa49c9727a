package org.prge.app

import org.prge.Outcome
import org.prge.UserError
import org.prge.loop.StepRecord

/** What training does now. */
sealed class Phase {
    /** Nothing is to be trained. */
    object Idle : Phase()

    /** The program is loaded, or the examples are read. */
    object Loading : Phase()

    /** The frozen layers read all texts once; a share of them is done. */
    data class Reading(val share: Double) : Phase()

    object Steps : Phase()

    /** A rule holds it back; it goes on by itself. */
    data class Waiting(val reason: Verdict) : Phase()

    object Paused : Phase()

    object Done : Phase()

    /** It was stopped, by the owner or by the rule on time. It can go on at any time. */
    data class Stopped(val reason: Verdict) : Phase()

    data class Failed(val sentence: String) : Phase()

    /** Whether a thread is at work, or waits to be. */
    val active get() = this !is Idle && this !is Done && this !is Stopped && this !is Failed
}

/** What a screen shows: one value, so that it fits together. [run] is null before anything was trained. */
data class Now(val run: Kept?, val phase: Phase, val progress: Progress?)

/** Makes a run's steps as long as it is asked whether to go on, and says so. Every step is on disk when it is heard. */
interface Teaching {
    fun teach(run: Kept, hear: Hear): Outcome
}

/** What [Teaching] tells. */
interface Hear {
    fun goesOn(): Boolean

    fun reading(share: Double)

    /** All steps that were made before, and how many there are to be. */
    fun begins(steps: Int, records: List<StepRecord>)

    fun stepped(record: StepRecord)
}

/**
 * The one training of this process, on a thread of its own. It obeys the rules and the owner.
 *
 * Pausing ends the execution between two steps and gives the memory back; going on is what a new process would do too.
 */
class Training(
    private val teaching: Teaching,
    private val rules: () -> Rules,
    private val phone: () -> Phone,
    private val wait: (Long) -> Unit = Thread::sleep,
) {
    @Volatile var now = Now(null, Phase.Idle, null)
        private set

    @Volatile private var paused = false
    @Volatile private var stopped = false
    private var thread: Thread? = null

    /** Begins a run, or goes on with it. Does nothing while another one is active. */
    @Synchronized fun start(run: Kept) {
        if (now.phase.active) return
        paused = false
        stopped = false
        now = Now(run, Phase.Loading, null)
        thread = Thread({ work(run) }, "training").apply { start() }
    }

    fun pause() {
        paused = true
    }

    fun goOn() {
        paused = false
    }

    fun stop() {
        stopped = true
    }

    /** Waits until the thread has ended. */
    fun join() {
        thread?.join()
    }

    private fun work(run: Kept) {
        var minutes = 0.0
        try {
            while (true) {
                val verdict = rules().verdict(phone(), minutes)
                if (stopped) return show(Phase.Stopped(Verdict.GO))
                if (verdict == Verdict.TIME_IS_UP) return show(Phase.Stopped(verdict))
                if (paused || verdict != Verdict.GO) {
                    show(if (paused) Phase.Paused else Phase.Waiting(verdict))
                    wait(MOMENT)
                    continue
                }
                show(Phase.Loading)
                val began = System.nanoTime()
                val outcome = teaching.teach(run, Ears(began, minutes))
                minutes += (System.nanoTime() - began) / 6e10
                if (outcome.completed) return show(Phase.Done)
            }
        } catch (e: UserError) {
            show(Phase.Failed(e.message!!))
        } catch (e: OutOfMemoryError) {
            show(Phase.Failed("there was not enough memory; close other apps, or export a program with a smaller batch"))
        }
    }

    private fun show(phase: Phase) {
        now = now.copy(phase = phase)
    }

    /** Asks the rules before every execution, but the phone at most once a second: asking it costs more than a look. */
    private inner class Ears(private val began: Long, private val before: Double) : Hear {
        private var asked = began
        private var allowed = true

        override fun goesOn(): Boolean {
            val at = System.nanoTime()
            if (at - asked > 1e9) {
                asked = at
                allowed = rules().verdict(phone(), before + (at - began) / 6e10) == Verdict.GO
            }
            return allowed && !paused && !stopped
        }

        override fun reading(share: Double) = show(Phase.Reading(share))

        override fun begins(steps: Int, records: List<StepRecord>) {
            now = now.copy(phase = Phase.Steps, progress = Progress.of(steps, records))
        }

        override fun stepped(record: StepRecord) {
            val so = checkNotNull(now.progress)
            val more = Progress.of(so.steps, listOf(record))
            now = now.copy(
                phase = Phase.Steps,
                progress = Progress(
                    so.steps, so.losses + more.losses, so.checks + more.checks, so.seconds + more.seconds,
                ),
            )
        }
    }

    private companion object {
        /** How long it waits before it asks the rules again, in milliseconds. */
        const val MOMENT = 1000L
    }
}
