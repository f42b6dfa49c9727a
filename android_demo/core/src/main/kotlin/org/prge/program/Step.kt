package org.prge.program

import java.io.File
import org.prge.UserError
import org.prge.data.Example
import org.prge.data.Examples
import org.prge.data.Hidden
import org.prge.data.collate
import org.prge.files.readChecked
import org.prge.files.sealOf

/**
 * What an execution gives, or a step.
 *
 * @property state f32[state_size], the new one.
 * @property losses f32[R] of an execution's rows; of a step, see [StepProgram.step].
 * @property scores f32[R, K], the label words' logits; empty without label words, and of a step.
 */
class Result(val state: FloatArray, val losses: FloatArray, val scores: FloatArray)

/**
 * The fine-tuning step. The layers below the first adapted one are a program of their own, [FrozenProgram], beside it.
 *
 * @param path the `.pte`, or the program's folder.
 * @throws UserError it is missing, damaged, or none of prge's.
 */
class StepProgram(path: File, private val runtime: Runtime) :
    Base(if (path.isDirectory) File(path, "program.pte") else path, "step", runtime) {
    private var frozen: FrozenProgram? = null
    private var hidden: Hidden? = null

    /** Called before every execution. It may throw to stop. */
    var beforeEach: () -> Unit = {}

    /**
     * The state to begin with, f32[state_size]: zeros, or that of the adapter that the program was exported with.
     *
     * @throws UserError the file with that adapter's state is missing, or another's.
     */
    fun initialState(): FloatArray {
        if (manifest.subspace != "peft") return FloatArray(manifest.stateSize)
        val beside = File(file.absoluteFile.parentFile, "initial.safetensors")
        val held = readChecked(beside, "a state of prge", "F32", required = false)
        val state = held.vectors["state"]?.floats()
        if (state?.size != manifest.stateSize || held.text("adapter_sha256") != manifest.adapterSha256)
            throw UserError("$beside is not the state that the program goes on from; copy it there again")
        return state
    }

    /**
     * Takes the hidden states of examples from a file from now on. It is made where it is missing, damaged, or of other
     * examples or another program. Then the frozen part is unloaded.
     *
     * @param reading hears how many tokens are done while the file is made, and of how many.
     * @throws UserError the file cannot be written, or frozen.pte is missing, damaged, or another program's.
     */
    fun keep(path: File, examples: Examples, reading: (Long, Long) -> Unit) {
        forget()
        hidden = Hidden.open(path, manifest, examples)
        if (hidden == null) {
            Hidden.write(path, manifest, examples, ::compute, reading)
            hidden = Hidden.open(path, manifest, examples) ?: throw UserError("$path cannot be read back")
        }
        frozen?.close()
        frozen = null
    }

    /** Computes hidden states again from now on. */
    fun forget() {
        hidden?.close()
        hidden = null
    }

    /**
     * One execution, behind those of the frozen part where no hidden states are kept.
     *
     * @param rows R examples.
     * @param state f32[state_size].
     * @param seed query i draws its direction from seed + i.
     * @param lr learning rate; 0 to evaluate.
     * @param eps size of the perturbation; 0 to evaluate.
     * @throws UserError the runtime cannot execute it on these.
     */
    fun execute(rows: List<Example>, state: FloatArray, seed: Long, lr: Double, eps: Double): Result =
        execute(rows, states(rows), state, seed, lr, eps)

    /**
     * One fine-tuning step: as many executions as the program needs for it.
     *
     * @param batch B examples.
     * @return the new state, and the losses: of each example; or, with perturbed weights, the batch's mean of each
     *     copy, those at +eps first.
     */
    fun step(batch: List<Example>, state: FloatArray, seed: Long, lr: Double, eps: Double): Result {
        val copies = manifest.copies
        val once = states(batch)
        val rows = List(copies * batch.size) { batch[it % batch.size] }
        val repeated = if (copies == 1) once else FloatArray(copies * once.size).also {
            for (copy in 0 until copies) once.copyInto(it, copy * once.size)
        }
        return stepBy(manifest, state, seed, lr, eps) { querySeed, queryLr, signed ->
            execute(rows, repeated, state, querySeed, queryLr, signed)
        }
    }

    override fun close() {
        forget()
        frozen?.close()
        super.close()
    }

    /** Hidden states f32[n, T, H] of rows that are padded as for an execution. */
    private fun states(rows: List<Example>): FloatArray {
        val length = maxOf(manifest.minTokens, rows.maxOf { it.tokens.size })
        return hidden?.read(rows, length) ?: compute(rows)
    }

    private fun compute(rows: List<Example>): FloatArray {
        val below = frozen ?: frozenPart().also { frozen = it }
        val inputs = collate(rows, manifest)
        return below.states(inputs.tokens, inputs.length, beforeEach)
    }

    private fun frozenPart(): FrozenProgram {
        val found = FrozenProgram(File(file.absoluteFile.parentFile, "frozen.pte"), runtime)
        if (sealOf(found.file) == manifest.frozenSha256 && found.manifest.hidden == manifest.hidden &&
            found.manifest.frozenRows == manifest.frozenRows) return found
        found.close()
        throw UserError("${found.file} is the frozen part of another program than $file; copy both again")
    }

    private fun execute(
        rows: List<Example>, hidden: FloatArray, state: FloatArray, seed: Long, lr: Double, eps: Double,
    ): Result {
        beforeEach()
        val m = manifest
        val given = collate(rows, m)
        val n = rows.size.toLong()
        val length = given.length.toLong()
        val width = given.position.size / n
        val inputs = mutableListOf(
            Input.Floats(state, m.stateSize.toLong()),
            Input.Floats(hidden, n, length, m.hidden.toLong()),
            Input.Longs(given.tokens, n, length),
            Input.Longs(given.position, n, width),
            if (m.labelWords) Input.Longs(given.target, n) else Input.Longs(given.target, n, width),
        )
        if (!m.labelWords) inputs += Input.Floats(given.weight, n, width)
        inputs += Input.Longs(longArrayOf(seed), 1)
        inputs += Input.Floats(floatArrayOf(lr.toFloat()), 1)
        inputs += Input.Floats(floatArrayOf(eps.toFloat()), 1)
        val outputs = forward(inputs)
        val expected = listOf(m.stateSize, rows.size, rows.size * if (m.labelWords) m.labels.size else m.maxTargets)
        if (outputs.map { it.size } != expected)
            throw UserError("$file: its outputs are not of the size that its manifest says")
        return Result(outputs[0], outputs[1], if (m.labelWords) outputs[2] else FloatArray(0))
    }
}

/** [StepProgram.step] by a function that executes with a seed, lr and eps. Loops outside the program run here. */
internal fun stepBy(
    m: Manifest, state: FloatArray, seed: Long, lr: Double, eps: Double, execute: (Long, Double, Double) -> Result,
): Result {
    val seeds = if (m.outer) 1 else m.queries
    val executions = seeds * if (m.inner) 1 else 2
    val up = ArrayList<Float>() // losses at +eps
    val down = ArrayList<Float>()
    var moved = FloatArray(state.size)
    for (i in 0 until executions) {
        val negative = !m.inner && i % 2 == 1
        val one = execute(seed + if (m.inner) i else i / 2, lr / seeds, if (negative) -eps else eps)
        if (m.gradient != "weights") return Result(one.state, one.losses, FloatArray(0))
        for (copy in 0 until m.copies) {
            var sum = 0.0
            for (k in copy * m.batch until (copy + 1) * m.batch) sum += one.losses[k]
            val below = if (m.inner) 2 * copy >= m.copies else negative
            (if (below) down else up) += (sum / m.batch).toFloat()
        }
        if (executions == 1) moved = one.state
        else for (k in moved.indices) moved[k] += one.state[k] - state[k]
    }
    if (executions > 1) for (k in moved.indices) moved[k] += state[k]
    return Result(moved, (up + down).toFloatArray(), FloatArray(0))
}
