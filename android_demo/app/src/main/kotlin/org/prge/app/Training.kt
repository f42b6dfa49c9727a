package org.prge.app

import org.prge.Outcome
import org.prge.Progress
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

    /** null where there was not enough memory. */
    data class Failed(val sentence: String?) : Phase()

    /** Whether a thread is at work, or waits to be. */
    val active get() = this !is Idle && this !is Done && this !is Stopped && this !is Failed
}

/** What a screen shows: one value, so that it fits together. [run] is null before anything was trained. */
data class Now(val run: Kept?, val phase: Phase, val course: Course?)

/** Makes a run's steps as long as it is asked whether to go on, and says so. Every step is on disk when it is heard. */
fun interface Teaching {
    fun teach(run: Kept, progress: Progress): Outcome
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
        now = Now(run, Phase.Loading, Course.read(run.run))
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
            show(Phase.Failed(null))
        }
    }

    private fun show(phase: Phase) {
        now = now.copy(phase = phase)
    }

    /** Asks the rules before every execution, but the phone at most once a second: asking it costs more than a look. */
    private inner class Ears(private val began: Long, private val before: Double) : Progress {
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

        override fun reading(done: Long, all: Long) = show(Phase.Reading(done.toDouble() / all))

        /** The first step of a run that goes on follows those in its journal. */
        override fun stepped(record: StepRecord, steps: Int) {
            val so = now.course?.takeIf { it.done == record.step }
            val r = record
            val course = so?.and(r.step, r.loss, r.seconds, r.before, r.dev) ?: Course.read(checkNotNull(now.run).run)
            now = now.copy(phase = Phase.Steps, course = course)
        }
    }

    private companion object {
        /** How long it waits before it asks the rules again, in milliseconds. */
        const val MOMENT = 1000L
    }
}
