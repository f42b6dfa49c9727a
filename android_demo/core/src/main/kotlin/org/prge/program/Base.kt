package org.prge.program

import java.io.File
import org.prge.UserError
import org.prge.files.isAsSealed
import org.prge.files.sealOf

/**
 * A program of prge's on a runtime: the file and its checks, the manifest, and executions.
 *
 * @property file the `.pte`.
 */
abstract class Base internal constructor(val file: File, kind: String, runtime: Runtime) : AutoCloseable {
    private val loaded: Loaded
    private var prepared = false

    /** What the program says about itself. */
    val manifest: Manifest

    /** Seconds that the runtime's executions have taken so far. */
    var executionSeconds = 0.0
        private set

    init {
        val more = if (kind == "generate") " --generate" else ""
        if (!file.isFile) throw UserError("$file does not exist; make it with `prge export$more`")
        // A damaged program could end the process, so the runtime gets none that is not as it was sealed.
        if (sealOf(file) == null)
            throw UserError("$file is no ExecuTorch program, or it is truncated or damaged; copy or export it again")
        if (!isAsSealed(file))
            throw UserError("$file is damaged: it is not what it was sealed as (SHA-256); copy or export it again")
        loaded = try {
            runtime.load(file)
        } catch (e: RuntimeException) {
            throw UserError("$file is damaged, or made for another version of the ExecuTorch runtime")
        }
        try {
            val text = (if ("manifest" in loaded.methods) loaded.text("manifest") else null)
                ?: throw UserError("$file is an ExecuTorch program, but not one made by prge (it has no manifest)")
            manifest = Manifest.read(text, file.path, kind)
        } catch (e: Exception) {
            loaded.close()
            throw if (e is UserError) e else failed()
        }
    }

    /** Executes `forward`, which packs the weights the first time. */
    protected fun forward(inputs: List<Input>): List<FloatArray> {
        try {
            if (!prepared) loaded.prepare("forward")
        } catch (e: RuntimeException) {
            throw UserError("$file is damaged, or made for another version of the ExecuTorch runtime")
        }
        prepared = true
        val began = System.nanoTime()
        try {
            return loaded.forward(inputs)
        } catch (e: RuntimeException) {
            throw failed()
        } finally {
            executionSeconds += (System.nanoTime() - began) / 1e9
        }
    }

    /**
     * The adapter's frozen factors, f32: of every module A [rank, in], and in a subspace behind it D [out, columns].
     *
     * @throws UserError they are not as many as the manifest says.
     */
    internal fun frozenFactors(): FloatArray {
        val m = manifest
        val each = m.modules.map {
            m.rank.toLong() * it.inFeatures + if (m.subspace == null) 0 else it.outFeatures.toLong() * it.columns
        }
        val found = try {
            if ("frozen" in loaded.methods) loaded.numbers("frozen") else null
        } catch (e: RuntimeException) {
            throw failed()
        }
        if (found == null || found.size.toLong() != each.sum())
            throw UserError("$file is not what its manifest says: its frozen factors are not ${each.sum()} numbers")
        return found
    }

    /** Gives back the memory of weights and buffers. */
    override fun close() = loaded.close()

    private fun failed() = UserError("$file: the ExecuTorch runtime could not run it")
}
