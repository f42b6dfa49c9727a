package org.prge.app

import java.io.File
import org.prge.UserError

/**
 * The app's files. Only this app can read them, and they go with it when it is removed.
 *
 * | place | what |
 * | --- | --- |
 * | `programs/NAME/` | a program |
 * | `data/NAME` | examples, as they were given |
 * | `runs/NAME/` | a [Kept] run |
 */
class Shelf(private val root: File) {
    val programs: List<File> get() = inside("programs").filter { File(it, MANIFEST).isFile }
    val data: List<File> get() = inside("data").filter { it.isFile && !it.name.endsWith(PARTIAL) }
    val runs: List<Kept> get() = inside("runs").filter { it.isDirectory }.map(::Kept)

    /** The run of that name, which may not have begun. */
    fun run(name: String) = Kept(File(root, "runs/${plain(name)}"))

    /** Where a new program, new data or a new run goes: under its name, or the name with a number where that is taken. */
    fun free(kind: String, name: String): File {
        val folder = File(root, kind).apply { mkdirs() }
        val plain = plain(name)
        val (stem, ending) = File(plain).let { it.nameWithoutExtension to it.extension }
        val names = sequenceOf(plain) + generateSequence(2) { it + 1 }
            .map { if (ending.isEmpty()) "$stem-$it" else "$stem-$it.$ending" }
        return names.map { File(folder, it) }.first { !it.exists() }
    }

    /** Removes one of the above. The name goes first, so that nothing that is half removed is taken for whole. */
    fun remove(file: File) {
        val gone = File(file.parentFile, "${file.name}$PARTIAL")
        if (!file.renameTo(gone)) throw UserError("${file.name} cannot be removed")
        gone.deleteRecursively()
    }

    private fun inside(kind: String): List<File> =
        File(root, kind).listFiles().orEmpty().filter { !it.name.endsWith(PARTIAL) }.sortedBy { it.name }

    companion object {
        const val PARTIAL = ".partial"

        /** What a program says about itself. It is written beside the program once that was opened without complaint. */
        const val MANIFEST = "manifest.json"

        /** A file's name without all that could lead elsewhere, or is odd on a disk. */
        fun plain(name: String): String =
            name.substringAfterLast('/').replace(Regex("[^\\p{L}\\p{N}._ -]"), "").trim('.', ' ').take(60).ifEmpty { "file" }
    }
}

/** A run that the app keeps: the run's own folder, and beside it what it was made of. */
class Kept(val folder: File) {
    val name: String get() = folder.name

    /** The packed examples. */
    val data = File(folder, "data.prge")

    /** What was left out of the examples, or read otherwise than they spell it, in sentences. */
    val told = File(folder, "told.txt")

    /** As docs/run-folder.md describes it. */
    val run = File(folder, "run")
    val asked: Boolean get() = File(folder, "asked.json").isFile
    val begun: Boolean get() = File(run, "config.json").isFile
}
