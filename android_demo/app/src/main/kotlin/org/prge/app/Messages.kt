package org.prge.app

import java.io.File
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** Messages that the owner shared into the app, each with the answer that they chose: examples, one JSON object a line. */
class Messages(val file: File) {
    val count: Int get() = if (file.isFile) file.readLines().count { it.isNotBlank() } else 0

    /** A last line that was cut off, as by an empty battery, ends here, and is no example. */
    fun add(example: Map<String, String>) {
        val lines = if (file.isFile) file.readText() else ""
        val whole = lines.substring(0, lines.lastIndexOf('\n') + 1)
        val line = JsonObject(example.mapValues { JsonPrimitive(it.value) })
        val scratch = File(file.path + Shelf.PARTIAL)
        file.absoluteFile.parentFile.mkdirs()
        scratch.writeText("$whole$line\n")
        scratch.renameTo(file)
    }
}
