package org.prge.run

import java.io.File
import java.nio.ByteBuffer
import org.prge.UserError
import org.prge.files.Odd
import org.prge.files.anew
import org.prge.files.parseJson
import org.prge.files.readChecked
import org.prge.files.rename
import org.prge.files.scratchOf
import org.prge.files.whole
import org.prge.files.writeAt
import org.prge.files.writing
import org.prge.program.Manifest
import org.prge.program.stateBytes

internal const val STATE = "state.safetensors"
internal const val EARLIER = "earlier.safetensors"
internal const val BEST = "best.safetensors"
internal const val START = "start.safetensors"

private const val WHAT = "a snapshot of a run"

/** Nanoseconds between writes through to the disk. They cost milliseconds, and a flash disk's life. */
private const val SYNC = 5_000_000_000L

/**
 * A run after some steps.
 *
 * @property steps how many, of this run.
 * @property good the best state so far (see the guard); null before the first step.
 */
internal class Snapshot(val steps: Int, val state: FloatArray, val good: FloatArray?)

/**
 * Writes a run's snapshots into its folder.
 *
 * @param after how many steps were made before the run's first.
 */
internal class Snapshots(private val folder: File, private val m: Manifest, private val after: Int) {
    private var synced = false
    private var syncedAt: Long? = null

    /**
     * Replaces the newest snapshot, which becomes the earlier one if it was written through to the disk. The first one
     * is, and from then on one every few seconds, each after the journal.
     */
    fun save(snapshot: Snapshot, journal: Journal) {
        val path = File(folder, STATE)
        val scratch = scratchOf(path)
        writing(path) {
            anew(scratch).use { file ->
                val bytes = stateBytes(m, snapshot.state, after + snapshot.steps, snapshot.steps, snapshot.good)
                file.writeAt(0, ByteBuffer.wrap(bytes))
                if (synced) rename(path, File(folder, EARLIER))
                synced = syncedAt.let { it == null || System.nanoTime() - it > SYNC }
                if (synced) {
                    journal.sync()
                    file.force(true)
                    syncedAt = System.nanoTime()
                }
            }
            rename(scratch, path)
        }
    }
}

/** @throws UserError the file is missing, damaged, or no snapshot of a run of this program. */
internal fun readSnapshot(path: File, m: Manifest): Snapshot {
    val held = readChecked(path, WHAT, "F32")
    try {
        val steps = parseJson(held.text("run_steps")).whole().toInt()
        val state = held.vectors["state"]?.floats() ?: throw Odd("it has no vector 'state'")
        val good = held.vectors["good"]?.floats()
        if (held.vectors.values.any { it.bytes.size != 4 * m.stateSize } || (good != null) != (steps > 0))
            throw Odd("its vectors are not the states of this program")
        return Snapshot(steps, state, good)
    } catch (e: Odd) {
        throw UserError("$path is not $WHAT: ${e.message}")
    }
}

/**
 * The newest whole snapshot in a folder, of [steps] steps or fewer.
 *
 * @throws UserError there is none, and why.
 */
internal fun newest(folder: File, m: Manifest, steps: Int): Snapshot {
    val reasons = ArrayList<String>()
    val found = listOf(STATE, EARLIER).mapNotNull { name ->
        try {
            readSnapshot(File(folder, name), m).also {
                if (it.steps > steps)
                    throw UserError("a snapshot of ${it.steps} steps has a journal of $steps beside it")
            }
        } catch (e: UserError) {
            reasons += e.message!!
            null
        }
    }
    return found.maxByOrNull { it.steps } ?: throw UserError("$folder cannot be resumed: ${reasons.joinToString("; ")}")
}
