package org.prge.program

import java.io.File
import org.prge.UserError
import org.prge.files.checked
import org.prge.files.readChecked
import org.prge.files.vector

/** A state f32[state_size], and how many steps have made it that the program's optimizer can continue. */
internal class State(val numbers: FloatArray, val steps: Int)

/**
 * The bytes of a state's file. A snapshot is one that also has the run's steps, and its good state once there is one.
 *
 * @param steps how many made it, those of earlier runs included.
 */
internal fun stateBytes(
    m: Manifest, state: FloatArray, steps: Int, runSteps: Int? = null, good: FloatArray? = null,
): ByteArray {
    val metadata = LinkedHashMap(m.identity)
    metadata["steps"] = "$steps"
    if (runSteps != null) metadata["run_steps"] = "$runSteps"
    val vectors = linkedMapOf("state" to vector(state))
    if (good != null) vectors["good"] = vector(good)
    return checked(metadata, vectors)
}

/**
 * Reads a state to begin with. Of another optimizer's only the parameters are taken.
 *
 * @throws UserError it is missing, damaged, no state, or of another base or other frozen factors.
 */
internal fun readState(file: File, m: Manifest): State {
    if (!file.isFile)
        throw UserError("$file does not exist; `prge train` and `prge-run` write it into their run folders")
    val held = readChecked(file, "a state of prge", "F32", required = false)
    val state = held.vectors["state"]?.floats()
        ?: throw UserError("$file is not a state of prge: it has no vector 'state'")
    if ("base_sha256" in held.metadata && held.text("base_sha256") != m.modelSha256)
        throw UserError("$file was trained on ${held.text("base")}, and not the base here, ${m.model}")
    val count = state.size
    if (count == 0 || (count != m.stateSize && (count % m.parameters != 0 || count / m.parameters > 3)))
        throw UserError(
            "$file holds $count numbers; the program's state has ${m.stateSize}: was it trained with another program?",
        )
    if (!finite(state)) throw UserError("$file holds numbers that are not finite: it is damaged")
    if (held.text("adapter_sha256") != m.adapterSha256)
        throw UserError("$file was trained between other frozen factors than the program's")
    val steps = held.metadata["steps"] ?: "0"
    if (steps.length !in 1..9 || steps.any { it !in '0'..'9' })
        throw UserError("$file is not a state of prge: it says of its steps '${steps.take(20)}'")
    if (count == m.stateSize) return State(state, steps.toInt())
    return State(state.copyOf(m.parameters).copyOf(m.stateSize), 0)
}

internal fun finite(numbers: FloatArray): Boolean = numbers.all { it.isFinite() }
