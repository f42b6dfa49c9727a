package org.prge.app

import android.content.Context
import android.content.Intent
import android.net.Uri
import android.provider.OpenableColumns
import java.io.File
import java.io.IOException
import java.io.InputStream
import org.prge.UserError

// What comes into the app and what leaves it, by the system's own pickers. None of it runs on the main thread.

fun openDocument(vararg types: String) = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE)
    .setType(if (types.size == 1) types[0] else "*/*").putExtra(Intent.EXTRA_MIME_TYPES, types)

fun createDocument(type: String, name: String) = Intent(Intent.ACTION_CREATE_DOCUMENT)
    .addCategory(Intent.CATEGORY_OPENABLE).setType(type).putExtra(Intent.EXTRA_TITLE, name)

/** A zip's program on the shelf, under the zip's name. */
fun takeProgram(context: Context, uri: Uri): File {
    val folder = context.app.shelf.free("programs", nameOf(context, uri).removeSuffix(".zip"))
    opened(context, uri).use { importProgram(it, folder) }
    return checked(context, folder)
}

/** A copy of examples on the shelf, under their own name. Whether they are examples shows when a run begins. */
fun takeData(context: Context, uri: Uri): File {
    val file = context.app.shelf.free("data", nameOf(context, uri))
    val scratch = File(file.path + Shelf.PARTIAL)
    opened(context, uri).use { from -> scratch.outputStream().use { from.copyTo(it) } }
    if (!scratch.renameTo(file)) throw UserError(context.getString(R.string.no_room, file.name))
    return file
}

/** The program of the demo: the one inside the APK, else one on the shelf that has the demo's labels. */
fun demoProgram(context: Context): File? {
    val wanted = setOf("today", "later")
    val shelf = context.app.shelf
    shelf.programs.firstOrNull { labelsOf(it).toSet() == wanted }?.let { return it }
    val inside = context.assets.list("program").orEmpty()
    if ("program.pte" !in inside) return null
    val folder = shelf.free("programs", "demo")
    folder.mkdirs()
    for (name in inside)
        context.assets.open("program/$name").use { from -> File(folder, name).outputStream().use { from.copyTo(it) } }
    return checked(context, folder)
}

/** The demo's examples to learn from, and those to be evaluated on. */
fun demoData(context: Context): Pair<File, File> {
    fun copy(name: String): File {
        val file = File(context.filesDir, "demo/$name")
        file.parentFile!!.mkdirs()
        context.assets.open("demo/$name").use { from -> file.outputStream().use { from.copyTo(it) } }
        return file
    }
    return copy("train.tsv") to copy("test.tsv")
}

/** Opens a new program once. A damaged one is removed, and the reason is told. */
private fun checked(context: Context, folder: File): File {
    try {
        val text = context.app.teacher.open(folder).use { it.manifest.json.toString() }
        File(folder, Shelf.MANIFEST).writeText(text)
    } catch (e: UserError) {
        folder.deleteRecursively()
        throw e
    }
    return folder
}

private fun opened(context: Context, uri: Uri): InputStream =
    context.contentResolver.openInputStream(uri) ?: throw IOException(nameOf(context, uri))

private fun nameOf(context: Context, uri: Uri): String =
    context.contentResolver.query(uri, arrayOf(OpenableColumns.DISPLAY_NAME), null, null, null)?.use {
        if (it.moveToFirst()) it.getString(0) else null
    } ?: uri.lastPathSegment ?: "file"
