package org.prge.host

import java.io.File
import java.nio.file.Files
import java.util.Locale
import kotlin.system.exitProcess
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.put
import org.prge.Benchmark
import org.prge.FineTuner
import org.prge.Outcome
import org.prge.Progress
import org.prge.Settings
import org.prge.UserError
import org.prge.loop.Evaluation
import org.prge.loop.StepRecord
import org.prge.program.Writing
import org.prge.run.exportRun

private const val USAGE =
    """train PROGRAM --data FILE --output RUN    with the options of prge-run
resume RUN [PROGRAM]
evaluate PROGRAM --data FILE [--from RUN]   the packed dev examples
predict PROGRAM --data FILE [--from RUN]
generate PROGRAM --prompt TOKENS [--from RUN]   the tokens that follow others
  --max-new-tokens N  --temperature X  --top-p X
bench PROGRAM [--tokens N]                  times its step, for `prge bench compare`
export RUN --data FILE --output ZIP         as the app does
  --steps N  --lr X  --eps X  --seed N  --eval-every N  --from RUN  --cache X  --threads N  --max-minutes X
  --patience N"""

private val OPTIONS = Regex("--[a-z-]+(?= [A-Z])").findAll(USAGE).map { it.value }.toSet()

/** A command's words, and its options by name. */
private class Arguments(given: List<String>) {
    val words = ArrayList<String>()
    private val options = HashMap<String, String>()

    init {
        val left = given.iterator()
        for (word in left) {
            if (!word.startsWith("--")) words += word
            else if (word !in OPTIONS) throw UserError("unknown option $word; known are:\n$USAGE")
            else options[word] = if (left.hasNext()) left.next() else throw UserError("$word takes a value")
        }
    }

    operator fun get(name: String): String? = options[name]

    fun word(place: Int): File? = words.getOrNull(place)?.let(::File)

    fun file(name: String): File = File(options[name] ?: throw UserError("$name is missing; usage:\n$USAGE"))

    fun <T> number(name: String, read: (String) -> T?): T? =
        options[name]?.let { read(it) ?: throw UserError("$name $it is no number that it takes") }
}

/** Stops a run after some minutes, and tells people how it goes. */
private class Watch(private val minutes: Double?) : Progress {
    private val began = System.nanoTime()
    private var over = false

    override fun goesOn() = !over

    override fun reading(done: Long, all: Long) {
        if (done == all) System.err.println("read once: $done of $all tokens")
    }

    override fun stepped(record: StepRecord, steps: Int) {
        over = minutes != null && (System.nanoTime() - began) / 60e9 >= minutes
        if (steps % 10 != 1 && record.dev == null) return
        val dev = record.dev?.let(::json) ?: ""
        System.err.println("step %d  loss %.3f  %s".format(Locale.ROOT, steps, record.loss, dev))
    }
}

private fun number(value: Double) = if (value.isFinite()) JsonPrimitive(value) else JsonNull

private fun JsonObject.plus(name: String, value: JsonElement) = JsonObject(this + (name to value))

private fun json(e: Evaluation) = buildJsonObject {
    put("loss", number(e.loss))
    e.accuracy?.let { put("accuracy", it) }
}

private fun json(o: Outcome): JsonObject = buildJsonObject {
    put("completed", o.completed)
    put("settled", o.settled)
    put("steps", o.steps)
    o.lr?.let { put("lr", it) }
    o.before?.let { put("before", json(it)) }
    o.best?.let { put("after", json(it).plus("steps", JsonPrimitive(o.bestSteps))) }
    val seconds = o.records.map { it.seconds }.sorted()
    if (seconds.isNotEmpty()) put("seconds_per_step", (seconds[seconds.size / 2] + seconds[(seconds.size - 1) / 2]) / 2)
    o.state?.let { put("state", it.path) }
    o.adapter?.let { put("adapter", it.path) }
}

private fun run(command: String, a: Arguments): JsonObject {
    val threads = a.number("--threads") { it.toIntOrNull()?.takeIf { n -> n > 0 } } ?: 0
    val patience = a.number("--patience") { it.toIntOrNull()?.takeIf { n -> n >= 0 } } ?: FineTuner.PATIENCE
    val watch = Watch(a.number("--max-minutes") { it.toDoubleOrNull()?.takeIf { n -> n >= 0 } })
    if (command == "resume") {
        val run = a.word(0) ?: throw UserError("give a run's folder; usage:\n$USAGE")
        val (program, data) = FineTuner.sources(run)
        return FineTuner.open(a.word(1) ?: program, threads).use {
            json(it.resume(run, it.examples(a["--data"]?.let(::File) ?: data), watch, patience))
        }
    }
    if (command == "export") {
        val run = a.word(0) ?: throw UserError("give a run's folder; usage:\n$USAGE")
        val zip = a.file("--output")
        zip.outputStream().use { exportRun(run, a.file("--data"), it) }
        return buildJsonObject { put("zip", zip.path) }
    }
    val path = a.word(0) ?: throw UserError("give a program; usage:\n$USAGE")
    return FineTuner.open(path, threads).use { tuner ->
        if (command == "generate") return generated(tuner, a)
        if (command == "bench") return bench(tuner, path, a)
        val examples = tuner.examples(a.file("--data"))
        val from = a["--from"]?.let(::File)
        when (command) {
            "train" -> json(tuner.train(a.file("--output"), examples, settings(a, from), watch, patience))
            "evaluate" -> json(tuner.evaluate(from, examples.dev))
            "predict" -> {
                val answers = tuner.predict(from, examples.dev).map { JsonPrimitive(it.answer) }
                JsonObject(mapOf("answers" to JsonArray(answers)))
            }
            else -> throw UserError("unknown command $command; known are:\n$USAGE")
        }
    }
}

private fun generated(tuner: FineTuner, a: Arguments): JsonObject {
    val prompt = a.number("--prompt") { text -> text.split(" ").map { it.toIntOrNull() }.takeIf { null !in it } }
        ?: throw UserError("--prompt is missing; usage:\n$USAGE")
    val usual = Writing()
    val writing = Writing(
        a.number("--max-new-tokens", String::toIntOrNull) ?: usual.most,
        a.number("--temperature", String::toDoubleOrNull) ?: usual.temperature,
        a.number("--top-p", String::toDoubleOrNull) ?: usual.topP, a.number("--seed", String::toLongOrNull) ?: usual.seed,
    )
    val tokens = tuner.generate(a["--from"]?.let(::File), prompt.map { it!! }.toIntArray(), writing)
    return JsonObject(mapOf("tokens" to JsonArray(tokens.map(::JsonPrimitive))))
}

private fun bench(tuner: FineTuner, path: File, a: Arguments): JsonObject {
    val scratch = Files.createTempDirectory("prge-bench").toFile()
    val name = path.absoluteFile.normalize().name
    val times = Benchmark.of(tuner, name, scratch, a.number("--tokens", String::toIntOrNull) ?: 32)
    return times.report(mapOf("system" to System.getProperty("os.name"), "cpu" to System.getProperty("os.arch")))
}

private fun settings(a: Arguments, from: File?): Settings {
    val usual = Settings()
    return Settings(
        a.number("--steps", String::toIntOrNull) ?: usual.steps, a.number("--lr", String::toDoubleOrNull),
        a.number("--eps", String::toDoubleOrNull), a.number("--seed", String::toLongOrNull) ?: usual.seed,
        a.number("--eval-every", String::toIntOrNull) ?: usual.evalEvery, from, a["--cache"] ?: usual.cache,
    )
}

private fun answer(words: List<String>): JsonObject = try {
    run(words.firstOrNull() ?: throw UserError("usage:\n$USAGE"), Arguments(words.drop(1)))
} catch (e: UserError) {
    buildJsonObject { put("error", e.message) }
}

/**
 * Prints one JSON object: the result, or `error` with a sentence, and exits with 1. `serve` prints one for each line
 * that it reads, a JSON list of words: tests ask hundreds of times.
 */
fun main(words: Array<String>) {
    if (words.contentEquals(arrayOf("serve"))) {
        for (line in System.`in`.bufferedReader().lineSequence())
            println(answer(Json.parseToJsonElement(line).jsonArray.map { it.jsonPrimitive.content }))
        return
    }
    val result = answer(words.toList())
    println(result)
    exitProcess(if ("error" in result) 1 else 0)
}
