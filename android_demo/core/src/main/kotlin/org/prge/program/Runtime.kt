package org.prge.program

import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** What executes programs. */
fun interface Runtime {
    /**
     * Maps a program.
     *
     * @throws RuntimeException it is none, or not for this runtime.
     */
    fun load(file: File): Loaded
}

/** A program that a runtime has mapped. Its methods throw a RuntimeException where the runtime fails. */
interface Loaded : AutoCloseable {
    val methods: Set<String>

    /** Packs the weights of a method, which takes a moment. */
    fun prepare(method: String)

    /** What a method without inputs says; null if that is no text. */
    fun text(method: String): String?

    /** The float32 numbers that a method without inputs gives; null where it gives something else. */
    fun numbers(method: String): FloatArray?

    /** Executes `forward`. All outputs are float32; they are copies. */
    fun forward(inputs: List<Input>): List<FloatArray>
}

/** An input of `forward`. */
sealed class Input(val shape: LongArray) {
    class Floats(val numbers: FloatArray, vararg shape: Long) : Input(shape)

    class Longs(val numbers: LongArray, vararg shape: Long) : Input(shape)
}

/**
 * ExecuTorch's own Android library, unmodified.
 *
 * @param threads of all programs of the process; 0 leaves the choice to the library.
 */
class ExecuTorch(private val threads: Int = 0) : Runtime {
    override fun load(file: File): Loaded = Mapped(Module.load(file.path, Module.LOAD_MODE_MMAP, threads))

    private class Mapped(private val module: Module) : Loaded {
        override val methods = module.methods.toSet()

        override fun prepare(method: String) = module.loadMethod(method)

        override fun text(method: String): String? =
            module.execute(method).firstOrNull()?.takeIf { it.isString }?.toStr()

        override fun numbers(method: String): FloatArray? =
            module.execute(method).firstOrNull()?.takeIf { it.isTensor }?.toTensor()?.dataAsFloatArray

        override fun forward(inputs: List<Input>): List<FloatArray> {
            val values = inputs.map {
                EValue.from(
                    when (it) {
                        is Input.Floats -> Tensor.fromBlob(it.numbers, it.shape)
                        is Input.Longs -> Tensor.fromBlob(it.numbers, it.shape)
                    },
                )
            }
            // The outputs are views of the runtime's memory, which the next execution overwrites.
            return module.execute("forward", *values.toTypedArray()).map { it.toTensor().dataAsFloatArray }
        }

        override fun close() = module.destroy()
    }
}
