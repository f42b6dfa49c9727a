package org.prge.run

import java.io.File
import java.nio.file.Files
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonObject
import org.prge.UserError
import org.prge.data.Examples
import org.prge.data.HIDDEN
import org.prge.data.HIDDEN_SCRATCH
import org.prge.data.isShared
import org.prge.files.Odd
import org.prge.files.SETTINGS
import org.prge.files.at
import org.prge.files.fields
import org.prge.files.parseJson
import org.prge.files.readBounded
import org.prge.files.real
import org.prge.files.short
import org.prge.files.text
import org.prge.files.textOrNull
import org.prge.files.utf8
import org.prge.files.whole
import org.prge.files.writing
import org.prge.loop.TrainConfig
import org.prge.program.Manifest
import org.prge.program.StepProgram

internal const val CONFIG = "config.json"
internal const val LOG = "log.jsonl"

/** Of a run folder's format; docs/formats.md says when it goes up. */
private const val VERSION = 7

private val EXPORTED = listOf("quantization", "queries", "batch", "outer", "inner", "gradient", "optimizer", "noise")
private val OF_ADAPTER = listOf("rank", "alpha", "subspace")

/** Files of a run that was cut off as it began. */
private val BEGUN = setOf(LOG, STATE, "state.partial", START, "start.partial", "config.partial")

/** The program's settings that a run's description repeats. */
private fun exported(m: Manifest): Map<String, JsonElement> =
    EXPORTED.associateWith { m.json.at(it) } + OF_ADAPTER.associateWith { m.json.at("adapter").at(it) }

/**
 * The content of config.json.
 *
 * @param program whole path of the .pte.
 * @param data whole path of the packed file.
 * @param from where the run's first state is from, or null.
 * @param cache the file of hidden states as [org.prge.data.hiddenFile] gives it.
 */
internal fun description(
    program: String, data: String, m: Manifest, examples: Examples, config: TrainConfig, from: String?, cache: String?,
): JsonObject = buildJsonObject {
    put("version", VERSION)
    put("program", program)
    put("runtime", "executorch")
    m.identity.forEach { (name, value) -> put(name, value) }
    put("exported", JsonObject(exported(m)))
    putJsonObject("train") {
        put("steps", config.steps)
        put("lr", config.lr)
        put("eps", config.eps)
        put("seed", config.seed)
        put("eval_every", config.evalEvery)
        put("after", config.after)
    }
    putJsonObject("data") {
        put("train", data)
        put("dev", JsonNull)
        put("dev_fraction", 0.0)
        put("limit", JsonNull)
        put("seed", config.seed)
        put("truncate", false)
        put("tokenizer", JsonNull)
        put("from", from)
        put("device", "cpu")
        put("cache", cache)
        put("examples", examples.train.size)
        put("dropped", examples.dropped)
        put("crc", examples.crc)
    }
}

/** Whether two values are the same. Drivers spell numbers each in their own way: 32 is 32.0. */
private fun same(one: JsonElement?, other: JsonElement): Boolean {
    fun number(of: JsonElement?) = (of as? JsonPrimitive)?.takeUnless { it.isString }?.content?.toDoubleOrNull()
    return one == other || (number(one) != null && number(one) == number(other))
}

/** What a run's folder says of it: its settings, and where its hidden states are, or null. */
internal class Described(val config: TrainConfig, val cache: String?)

/**
 * A run's settings, if it is one of this program and these examples.
 *
 * @throws UserError it is not, or its description is missing or damaged.
 */
internal fun settingsOf(folder: File, program: StepProgram, examples: Examples): Described = described(folder) { json ->
    val here = program.manifest.identity.mapValues { JsonPrimitive(it.value) } + exported(program.manifest)
    for ((name, value) in here)
        if (!same(json.fields()[name] ?: json.at("exported").fields()[name], value))
            throw UserError("$folder is a run of another program: its $name is not that of ${program.file}")
    if (json.at("data").at("crc").text() != examples.crc)
        throw UserError(
            "${examples.file}: these are not the examples that $folder was begun with; give the file as it was with " +
                "--data, or begin a new run",
        )
    val t = json.at("train")
    val cache = json.at("data").at("cache").textOrNull()
    if (cache != null && cache != HIDDEN && !isShared(cache))
        throw Odd("hidden states in ${JsonPrimitive(cache).short()}")
    val config = TrainConfig(
        t.at("steps").whole().toInt(), t.at("lr").real(), t.at("eps").real(), t.at("seed").whole(),
        t.at("eval_every").whole().toInt(), t.at("after").whole().toInt(),
    )
    if (config.steps == 0 || config.lr <= 0 || config.eps <= 0) throw Odd("a setting out of range")
    Described(config, cache)
}

/** Where a run's program and its packed examples are, as its folder says. */
internal fun sourcesOf(folder: File): Pair<File, File> = described(folder) { json ->
    val data = json.at("data").at("train").textOrNull()
        ?: throw UserError("$folder was not begun with a file of `prge pack`; give one with --data")
    File(json.at("program").text()) to File(data)
}

private fun <T> described(folder: File, read: (JsonElement) -> T): T {
    val path = File(folder, CONFIG)
    if (!path.isFile) throw UserError("$folder is no run folder of `prge train` or `prge-run` (no config.json)")
    val text = readBounded(path, SETTINGS)
    try {
        val json = parseJson(utf8(text))
        val version = json.fields()["version"] ?: JsonPrimitive(1)
        if (version != JsonPrimitive(VERSION))
            throw UserError(
                "$folder was begun by another version of prge (run format ${version.short().take(20)}, this one " +
                    "reads $VERSION); finish it with that version, or begin a new run with --from $folder",
            )
        return read(json)
    } catch (e: Odd) {
        throw UserError("$path is not the description of a run: ${e.message}")
    }
}

/**
 * Makes the folder of a new run. It may hold a program, and the files of a run that was cut off as it began.
 *
 * @throws UserError it holds anything else, or cannot be written.
 */
internal fun makeFolder(folder: File) = writing(folder) {
    Files.createDirectories(folder.toPath())
    val log = File(folder, LOG)
    val allowed = setOf("program", HIDDEN, HIDDEN_SCRATCH) + if (log.isFile && log.length() == 0L) BEGUN else emptySet()
    if (folder.list().orEmpty().any { it !in allowed })
        throw UserError("$folder exists and is not empty; choose another --output or remove it")
}
