package org.prge.data

import java.io.File
import java.nio.file.Files
import org.prge.UserError
import org.prge.files.writing
import org.prge.program.Manifest

internal const val HIDDEN = "hidden.safetensors"
internal const val HIDDEN_SCRATCH = "hidden.partial"
private val SHARED = Regex("hidden-[0-9a-f]{8}-[0-9a-f]{8}\\.safetensors")
private val SIZE = Regex("([0-9]+(?:\\.[0-9]+)?) *([mg])b", RegexOption.IGNORE_CASE)
private val MEANT_AS_SIZE = Regex("[0-9].*[mg]b", RegexOption.IGNORE_CASE)
private const val BUDGET = 4e9

/** Whether a path has a name as such files have in folders that runs share. */
internal fun isShared(path: String): Boolean =
    File(path).run { isAbsolute && SHARED.matches(name) } && '\u0000' !in path

/** Bytes that hidden states may take: 0 for "off"; null where [cache] names a folder, or nothing. */
internal fun budgetOf(cache: String): Double? {
    if (cache == "off") return 0.0
    if (!MEANT_AS_SIZE.matches(cache)) return null
    val (number, unit) = SIZE.matchEntire(cache)?.destructured
        ?: throw UserError("--cache $cache: write a number and MB or GB, as 1.5GB")
    return number.toDouble() * (if (unit.lowercase() == "g") 1e9 else 1e6)
}

/**
 * Where a run keeps its hidden states, as its config.json has it: a name in the run's folder, a whole path, or null
 * where they would take too much.
 *
 * @param cache "off", a size as "2GB", or a folder that runs share; "" for at most 4 GB.
 */
internal fun hiddenFile(folder: File, cache: String, m: Manifest, examples: Examples): String? {
    val budget = budgetOf(cache)
    if (budget == 0.0) return null
    val shared = cache != "" && budget == null
    val place = if (shared) writing(File(cache)) { File(cache).canonicalFile } else folder
    writing(place) { Files.createDirectories(place.toPath()) }
    val name = if (shared) "hidden-${m.frozenSha256.take(8)}-${examples.crc}.safetensors" else HIDDEN
    val there = File(place, name).isFile // its space is not counted twice
    val most = budget ?: minOf(BUDGET, place.usableSpace / 4.0)
    if (!there && bytesOfHidden(examples, m) > most) return null
    return if (shared) File(place, name).path else name
}
