package org.prge

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import org.prge.data.Batches
import org.prge.data.Example
import org.prge.data.Examples
import org.prge.data.Hidden
import org.prge.data.collate
import org.prge.loop.Best
import org.prge.loop.Evaluation
import org.prge.loop.Guard
import org.prge.loop.StepRecord
import org.prge.loop.TrainConfig
import org.prge.loop.mean
import org.prge.loop.predictBy
import org.prge.loop.searchLr
import org.prge.program.Manifest
import org.prge.program.Result
import org.prge.program.readState
import org.prge.program.stateBytes
import org.prge.program.stepBy
import org.prge.run.Journal
import org.prge.run.description
import org.prge.run.readSnapshot
import org.prge.run.toJson
import org.prge.run.toRecord

/** The golden vectors that every driver keeps, byte for byte; tests/golden/README.md says what they are. */
class GoldenTest {
    @TempDir
    lateinit var scratch: File

    @TestFactory
    fun rows() = cases("rows") { given ->
        val m = manifest(given)
        val inputs = collate(examples(given["examples"]).flatMap { it.rows }, m)
        val expected = given.getValue("inputs").jsonObject
        assertArrayEquals(longs(expected["tokens"]), inputs.tokens)
        assertArrayEquals(longs(expected["position"]), inputs.position)
        assertArrayEquals(longs(expected[if (m.labelWords) "label" else "target"]), inputs.target)
        if (!m.labelWords) assertArrayEquals(floats(expected["weight"]), inputs.weight)
    }

    @TestFactory
    fun packed() = cases("packed") { given ->
        val file = File(GOLDEN, given.text("file"))
        val found = Examples.read(file, manifest(given))
        assertEquals(examples(given["train"]), found.train)
        assertEquals(examples(given["dev"]), found.dev)
        assertEquals(given.number("dropped").toInt(), found.dropped)
        assertEquals(given.text("crc"), found.crc)
        val again = File(scratch, "again.prge")
        Examples(again, found.train, found.dev, found.dropped).write(manifest(given))
        assertArrayEquals(file.readBytes(), again.readBytes())
    }

    @TestFactory
    fun hidden() = cases("hidden") { given ->
        val m = manifest(given)
        val all = Examples(scratch, examples(given["train"]), examples(given["dev"]), 0)
        assertEquals(given.text("crc"), all.crc)
        val path = File(scratch, "hidden.safetensors")
        val groups = given.getValue("groups").jsonArray.map { it.jsonObject }.iterator()
        val done = ArrayList<Long>()
        Hidden.write(path, m, all, { rows ->
            val group = groups.next()
            assertArrayEquals(longs(group["tokens"]), collate(rows, m).tokens)
            floats(group["states"])
        }, { tokens, _ -> done += tokens })
        assertTrue(!groups.hasNext())
        assertArrayEquals(longs(given["done"]), done.toLongArray())
        assertArrayEquals(File(GOLDEN, given.text("file")).readBytes(), path.readBytes())
        Hidden.open(path, m, all)!!.use {
            assertArrayEquals(floats(given["read"]), it.read(all.rows, collate(all.rows, m).length))
        }
    }

    @TestFactory
    fun batches() = cases("batches") { given ->
        val lengths = longs(given["lengths"])
        val all = longs(given["labels"]).mapIndexed { i, label -> Example(IntArray(lengths[i].toInt()), label.toInt()) }
        val order = Batches(all, given.number("batch").toInt(), given.getValue("seed").jsonPrimitive.long)
        val first = given.getValue("first").jsonPrimitive.long
        for ((i, batch) in given.getValue("batches").jsonArray.withIndex())
            assertEquals(longs(batch).map { it.toInt() }, order.at(first + i))
    }

    @TestFactory
    fun schedule() = cases("schedule") { given ->
        val config = TrainConfig(
            given.number("steps").toInt(), given.number("lr"), 0.0, given.getValue("seed").jsonPrimitive.long, 0,
            given.number("after").toInt(),
        )
        val (mean, square) = given.getValue("betas").jsonArray.map { it.jsonPrimitive.double }
        for (made in given.getValue("made").jsonArray.map { it.jsonArray }) {
            val step = made[0].jsonPrimitive.int
            assertEquals(made[1].jsonPrimitive.double, config.lrAt(step, given.text("optimizer"), mean, square))
            assertEquals(made[2].jsonPrimitive.long, config.seedAt(step, given.number("queries").toInt()))
        }
    }

    @TestFactory
    fun best() = cases("best") { given ->
        val found = Best()
        for ((steps, row) in given.getValue("evaluations").jsonArray.map { it.jsonObject }.withIndex())
            assertEquals(row.flag("best"), found.note(steps, evaluation(row)))
    }

    @TestFactory
    fun guard() = cases("guard") { given ->
        val watching = Guard(given.number("batch").toInt(), given.number("classes").toInt())
        val noting = Guard(given.number("batch").toInt(), given.number("classes").toInt()) // as a run that goes on does
        var good = -1
        var state = 0
        for ((made, row) in given.getValue("steps").jsonArray.map { it.jsonObject }.withIndex()) {
            val loss = number(row["loss"])
            if ("error" in row) {
                assertThrows(UserError::class.java) { watching.watch(loss, row.flag("finite")) }
                continue
            }
            val (backOff, isGood) = watching.watch(loss, row.flag("finite"))
            assertEquals(isGood, noting.note(loss, backOff))
            if (isGood) good = state
            state = if (backOff) good else made + 1
            assertEquals(row.flag("backed_off"), backOff)
            assertEquals(row.number("good").toInt(), good)
            assertEquals(row.number("state").toInt(), state)
            for (guard in listOf(watching, noting)) {
                assertEquals(row.number("scale"), guard.scale)
                assertEquals(row.number("first"), guard.first)
                assertEquals(row.number("mean"), guard.mean)
                assertEquals(row.number("best"), guard.best)
            }
        }
    }

    @TestFactory
    fun search() = cases("search") { given ->
        val tried = ArrayList<Double>()
        val losses = given.getValue("losses").jsonArray
        val ways = given.getValue("ways").jsonArray.map(::number)
        val lowest = searchLr(ways, given.getValue("start").jsonPrimitive.int) { way ->
            tried += way
            number(losses[tried.size - 1])
        }
        assertEquals(given.getValue("tried").jsonArray.map(::number), tried)
        assertEquals(given.number("lowest"), lowest)
    }

    @TestFactory
    fun loops() = cases("loops") { given ->
        val executions = given.getValue("executions").jsonArray.map { it.jsonObject }.iterator()
        val found = stepBy(
            manifest(given), floats(given["before"]), given.getValue("seed").jsonPrimitive.long, given.number("lr"),
            given.number("eps"),
        ) { seed, lr, eps ->
            val one = executions.next()
            assertEquals(one.getValue("seed").jsonPrimitive.long, seed)
            assertEquals(one.number("lr"), lr)
            assertEquals(one.number("eps"), eps)
            Result(floats(one["state"]), floats(one["losses"]), FloatArray(0))
        }
        assertTrue(!executions.hasNext())
        assertArrayEquals(floats(given["state"]), found.state)
        assertArrayEquals(floats(given["losses"]), found.losses)
    }

    @TestFactory
    fun evaluation() = cases("evaluation") { given ->
        val m = manifest(given)
        val all = examples(given["examples"])
        val rows = all.flatMap { it.rows }
        val losses = floats(given["losses"])
        val scores = given.getValue("scores").jsonArray
        val made = ArrayList<List<Long>>()
        val found = predictBy(m, all, { _, _ -> }) { part ->
            val places = part.map { row -> rows.indexOfFirst { it === row } }
            made += places.map { it.toLong() }
            val each = places.flatMap { floats(scores[it]).toList() }
            Result(FloatArray(0), FloatArray(part.size) { losses[places[it]] }, each.toFloatArray())
        }
        assertEquals(given.getValue("executions").jsonArray.map { longs(it).toList() }, made)
        val mean = mean(found, all)
        assertEquals(given.number("loss"), mean.loss)
        assertEquals(given.getValue("accuracy").let { if (it is JsonNull) null else number(it) }, mean.accuracy)
    }

    @TestFactory
    fun run() = cases("run") { given ->
        val m = manifest(given)
        val t = given.getValue("train").jsonObject
        val config = TrainConfig(
            t.number("steps").toInt(), t.number("lr"), t.number("eps"), t.getValue("seed").jsonPrimitive.long,
            t.number("eval_every").toInt(), t.number("after").toInt(),
        )
        fun file(name: String) = File(GOLDEN, "run/$name")
        fun same(name: String, bytes: ByteArray) = assertArrayEquals(file(name).readBytes(), bytes, name)
        val (state, good, start) = listOf("state", "good", "start").map { floats(given[it]) }
        val steps = given.getValue("steps").jsonArray.size

        val data = Examples(scratch, examples(given["examples"]), emptyList(), given.number("dropped").toInt())
        val described = description(
            given.text("program"), given.text("data"), m, data, config, given.text("from"), given.text("cache"),
        )
        assertEquals(flat(Json.parseToJsonElement(file("config.json").readText())), flat(described))

        same("start.safetensors", stateBytes(m, start, config.after))
        same("begun.safetensors", stateBytes(m, start, config.after, 0))
        same("state.safetensors", stateBytes(m, state, config.after + steps, steps, good))
        same("best.safetensors", stateBytes(m, state, config.after + steps))
        val read = readState(file("start.safetensors"), m)
        assertArrayEquals(start, read.numbers)
        assertEquals(config.after, read.steps)
        val snapshot = readSnapshot(file("state.safetensors"), m)
        assertEquals(steps, snapshot.steps)
        assertArrayEquals(state, snapshot.state)
        assertArrayEquals(good, snapshot.good)

        val theirs = ArrayList<JsonObject>()
        Journal(file("log.jsonl").copyTo(File(scratch, "log.jsonl"))).use { it.read(theirs::add) }
        val ours = given.getValue("steps").jsonArray.map { toJson(record(it.jsonObject)) }
        assertEquals(theirs.map { flat(it) }, ours.map { flat(it) })
        assertEquals(theirs.map { flat(it) }, theirs.map { flat(toJson(toRecord(it))) })
    }

    @TestFactory
    fun journal() = cases("journal") { given ->
        val path = File(scratch, "log.jsonl").apply { writeText(given.text("text")) }
        val read = ArrayList<JsonObject>()
        if ("rows" in given) {
            Journal(path).use { it.read(read::add) }
            assertEquals(given.getValue("rows"), JsonArray(read))
            path.delete()
            Journal(path).use { again -> read.forEach(again::append) }
            if (given.text("about") == "whole") assertEquals(given.text("text"), path.readText())
        } else {
            val said = assertThrows(UserError::class.java) { Journal(path).use { it.read(read::add) } }
            assertTrue(" is damaged at byte ${given.number("damaged_at").toInt()} " in said.message!!, said.message)
        }
    }

    private companion object {
        val GOLDEN = File("../../tests/golden")
        val manifests = Json.parseToJsonElement(File(GOLDEN, "manifests.json").readText()).jsonObject

        fun cases(name: String, test: (JsonObject) -> Unit): List<DynamicTest> {
            val file = Json.parseToJsonElement(File(GOLDEN, "$name.json").readText()).jsonObject
            return file.getValue("cases").jsonArray.mapIndexed { i, given ->
                DynamicTest.dynamicTest("$name $i") { test(given.jsonObject) }
            }
        }

        fun manifest(given: JsonObject): Manifest {
            val name = given.text("manifest")
            return Manifest.read(manifests.getValue(name).toString(), name)
        }

        fun JsonObject.text(name: String) = getValue(name).jsonPrimitive.content

        fun JsonObject.flag(name: String) = getValue(name).jsonPrimitive.boolean

        fun JsonObject.number(name: String) = number(getValue(name))

        /** A text where it is not finite. */
        fun number(given: JsonElement?): Double = when (val word = given!!.jsonPrimitive.content) {
            "nan" -> Double.NaN
            "inf" -> Double.POSITIVE_INFINITY
            "-inf" -> Double.NEGATIVE_INFINITY
            else -> word.toDouble()
        }

        fun leaves(given: JsonElement?): List<JsonPrimitive> =
            if (given is JsonArray) given.flatMap(::leaves) else listOf(given!!.jsonPrimitive)

        fun longs(given: JsonElement?) = leaves(given).map { it.long }.toLongArray()

        fun floats(given: JsonElement?) = leaves(given).map { number(it).toFloat() }.toFloatArray()

        fun examples(given: JsonElement?): List<Example> = given?.jsonArray.orEmpty().map { it.jsonObject }.map {
            Example(
                longs(it["tokens"]).map { token -> token.toInt() }.toIntArray(), it.number("label").toInt(),
                it.number("targets").toInt(), examples(it["candidates"]),
            )
        }

        fun evaluation(row: JsonObject) =
            Evaluation(row.number("loss"), row["accuracy"]?.let { if (it is JsonNull) null else number(it) })

        fun record(row: JsonObject) = StepRecord(
            row.number("step").toInt(), row.number("loss"), row.number("lr"), row.number("eps"),
            row.getValue("seed").jsonPrimitive.long, row.getValue("tokens").jsonPrimitive.long, row.number("seconds"),
            floats(row["losses"]), longs(row["examples"]).map { it.toInt() }, row.flag("backed_off"),
            row["dev"]?.let { evaluation(it.jsonObject) }, row["before"]?.let { evaluation(it.jsonObject) },
        )

        /** Names and values in their order. Numbers may be spelled otherwise, if they are the same. */
        fun flat(json: JsonElement, name: String = ""): List<Pair<String, Any?>> = when (json) {
            is JsonObject -> json.flatMap { (key, value) -> flat(value, "$name.$key") }
            is JsonArray -> json.flatMap { flat(it, "$name[]") }
            is JsonNull -> listOf(name to null)
            is JsonPrimitive -> {
                val number = if (json.isString) null else json.content.toDoubleOrNull()
                listOf(name to (number ?: json.content))
            }
        }
    }
}
