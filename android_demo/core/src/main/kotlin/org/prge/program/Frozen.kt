package org.prge.program

import java.io.File
import org.prge.UserError

/** The frozen part of a step: the embedding, and the layers below the first adapted one. */
class FrozenProgram(file: File, runtime: Runtime) : Base(file, "frozen", runtime) {
    /**
     * Hidden states f32[n, T, H] of rows of tokens i64[n, T].
     *
     * An execution takes `frozen_rows`. The last one is filled up with its own rows, again from the first.
     *
     * @param length T.
     * @param beforeEach called before every execution. It may throw to stop.
     * @throws UserError the runtime cannot execute it on these.
     */
    fun states(tokens: LongArray, length: Int, beforeEach: () -> Unit): FloatArray {
        val found = FloatArray(tokens.size * manifest.hidden)
        val whole = manifest.frozenRows * length
        for (start in tokens.indices step whole) {
            beforeEach()
            val count = minOf(whole, tokens.size - start)
            val part = LongArray(whole) { tokens[start + it % count] }
            val hidden = forward(listOf(Input.Longs(part, manifest.frozenRows.toLong(), length.toLong()))).firstOrNull()
            if (hidden?.size != whole * manifest.hidden)
                throw UserError("$file: its output is not of the size that its manifest says")
            hidden.copyInto(found, start * manifest.hidden, 0, count * manifest.hidden)
        }
        return found
    }
}
