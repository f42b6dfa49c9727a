package org.prge.run

import java.io.File
import java.io.OutputStream
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import org.prge.program.ADAPTER

/**
 * Writes a run as a zip: `run/`, which `prge train --resume` takes, and `data.prge`, the examples that it was begun with.
 *
 * Hidden states stay out. They are large, tell of the texts, and are made again where they are needed.
 *
 * @param data the packed file.
 * @throws java.io.IOException a file cannot be read or written.
 */
fun exportRun(run: File, data: File, to: OutputStream) {
    ZipOutputStream(to).use { zip ->
        fun add(file: File, name: String) {
            zip.putNextEntry(ZipEntry(name).apply { time = file.lastModified() })
            file.inputStream().use { it.copyTo(zip) }
            zip.closeEntry()
        }
        add(data, "data.prge")
        for (folder in listOf("", "$ADAPTER/"))
            for (file in File(run, folder).listFiles().orEmpty().filter { it.isFile }.sorted())
                if (!file.name.startsWith("hidden") && file.extension != "partial") add(file, "run/$folder${file.name}")
    }
}
