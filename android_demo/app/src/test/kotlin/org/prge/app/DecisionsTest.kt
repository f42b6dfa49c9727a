package org.prge.app

import java.io.ByteArrayOutputStream
import java.io.File
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import kotlin.random.Random
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonObject
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import org.prge.Benchmark
import org.prge.UserError

/** What the app decides, without Android. */
class DecisionsTest {
    @TempDir lateinit var folder: File

    @Test
    fun `each rule holds training back by itself`() {
        val rules = Rules(onlyCharging = false, leastBattery = 30, warmest = 1, mostMinutes = 10)
        val fine = Phone(charging = false, battery = 30, heat = 1)
        assertEquals(Verdict.GO, rules.verdict(fine, 9.99))
        assertEquals(Verdict.TIME_IS_UP, rules.verdict(fine, 10.0))
        assertEquals(Verdict.BATTERY_LOW, rules.verdict(fine.copy(battery = 29), 0.0))
        assertEquals(Verdict.GO, rules.verdict(fine.copy(battery = 29, charging = true), 0.0))
        assertEquals(Verdict.TOO_WARM, rules.verdict(fine.copy(heat = 2), 0.0))
        assertEquals(Verdict.NEEDS_CHARGER, rules.copy(onlyCharging = true).verdict(fine, 0.0))
        assertEquals(Verdict.GO, rules.copy(mostMinutes = 0).verdict(fine, 1e6))
    }

    @Test
    fun `a processor without an instruction is known by any of its cores`() {
        val new = "Features\t: fp asimd fphp asimdhp asimddp\n"
        val old = "Features\t: fp asimd evtstrm aes\n"
        assertEquals(emptyList<String>(), Processor.lacks("processor\t: 0\n${new}processor\t: 1\n$new"))
        assertEquals(listOf("asimddp", "fphp"), Processor.lacks(new + old))
        // x86 has flags instead, and no file tells nothing.
        assertEquals(emptyList<String>(), Processor.lacks("flags : fpu sse4_2\n"))
        assertEquals(emptyList<String>(), Processor.lacks(""))
    }

    @Test
    fun `the golden run's course is read as its journal says`() {
        val course = Course.read(File("../../tests/golden/run"))!!
        val rows = File("../../tests/golden/run/log.jsonl").readLines()
        assertEquals(rows.size, course.done)
        assertEquals(10, course.steps)
        assertTrue(course.losses[1].isNaN()) // null in the journal
        assertEquals(listOf(0, 3), course.checks.map { it.first })
        assertEquals(1 / 3.0, course.before!!.accuracy!!, 1e-15)
        assertEquals(3 / course.seconds.sum(), course.stepsPerSecond!!, 1e-12)
        assertEquals(7 / course.stepsPerSecond!!, course.secondsLeft!!, 1e-12)
    }

    @Test
    fun `a journal that is being written is read up to its last whole line`() {
        File("../../tests/golden/run").copyRecursively(folder, overwrite = true)
        val log = File(folder, "log.jsonl")
        log.writeText(log.readText().dropLast(30))
        assertEquals(2, Course.read(folder)!!.done)
        File(folder, "config.json").writeText("{")
        assertNull(Course.read(folder))
    }

    @Test
    fun `a curve leaves out what is not finite, and stays inside its picture`() {
        val curve = Curve.ofLosses(listOf(2.0, Double.NaN, 1.0, 1.0))
        assertEquals(listOf(1.0, 3.0, 4.0), curve.points.map { it.first })
        assertTrue(curve.points.zipWithNext().all { (a, b) -> b.second < a.second })
        val scale = Scale.around(4, listOf(curve), 0.2)
        for (point in curve.points) for (share in scale.place(point).toList()) assertTrue(share in 0f..1f)
        val empty = Scale.around(0, emptyList(), 0.2)
        assertTrue(empty.high > empty.low)
    }

    @Test
    fun `a program comes out of a zip, and nothing else does`() {
        val zip = zip("a/program.pte" to 9, "a/frozen.pte" to 3, "a/readme.txt" to 5, "a/../../tokenizer.json" to 4)
        // A path that leaves its folder is another folder.
        assertTrue(assertThrows<UserError> { importProgram(zip.inputStream(), File(folder, "p")) }.message!!.contains("more than one"))
        assertEquals(emptyList<String>(), folder.list()!!.toList())
        importProgram(zip("a/program.pte" to 9, "a/frozen.pte" to 3, "../evil" to 5).inputStream(), File(folder, "p"))
        assertEquals(listOf("frozen.pte", "program.pte"), File(folder, "p").list()!!.sorted())
        assertEquals(listOf("p"), folder.list()!!.toList())
    }

    @Test
    fun `no zip gets out of its folder, and each bad one is a sentence`() {
        val names = listOf("../program.pte", "/program.pte", "..\\program.pte", "program.pte/../../program.pte", "x/..", "")
        val inside = File(folder, "inside").apply { mkdirs() }
        for ((i, name) in names.withIndex())
            try {
                importProgram(zip(name to 10).inputStream(), File(inside, "p$i"))
            } catch (e: UserError) {
                assertTrue(e.message!!.startsWith("the zip"), e.message)
            }
        assertEquals(listOf("inside"), folder.list()!!.toList())
        assertTrue(inside.walk().filter { it.isFile }.all { it.name == "program.pte" && it.parentFile.parentFile == inside })

        val good = zip("program.pte" to 3000, "frozen.pte" to 3000)
        val random = Random(1)
        repeat(500) {
            val bad = good.copyOf(if (it % 3 == 0) random.nextInt(good.size) else good.size)
            if (bad.isNotEmpty()) repeat(1 + it % 4) { bad[random.nextInt(bad.size)] = random.nextInt().toByte() }
            val to = File(folder, "mutated")
            try {
                importProgram(bad.inputStream(), to)
            } catch (e: UserError) {
                assertFalse(to.exists())
            }
            to.deleteRecursively()
        }
        assertEquals(listOf("inside"), folder.list()!!.toList())
    }

    private fun zip(vararg files: Pair<String, Int>): ByteArray {
        val bytes = ByteArrayOutputStream()
        ZipOutputStream(bytes).use { zip ->
            for ((name, size) in files) {
                zip.putNextEntry(ZipEntry(name))
                zip.write(Random(size).nextBytes(size))
            }
        }
        return bytes.toByteArray()
    }

    @Test
    fun `names on the shelf are plain and free`() {
        val shelf = Shelf(folder)
        assertEquals("passwd", Shelf.plain("../../etc/passwd"))
        assertEquals("file", Shelf.plain(".."))
        assertEquals("Grüße 1.tsv", Shelf.plain("Grüße: 1.tsv"))
        for (expected in listOf("a.tsv", "a-2.tsv", "a-3.tsv")) {
            val file = shelf.free("data", "a.tsv")
            assertEquals(expected, file.name)
            file.writeText("x")
        }
        shelf.remove(shelf.data.first())
        assertEquals(2, shelf.data.size)
    }

    @Test
    fun `a message that was cut off is no example, and is not joined with the next one`() {
        val messages = Messages(File(folder, "messages.jsonl"))
        messages.add(mapOf("text" to "one \"quoted\"\n\tline", "label" to "today"))
        messages.file.appendText("{\"text\":\"cut o")
        messages.add(mapOf("text" to "two", "kind" to "later"))
        val rows = messages.file.readLines().map { Json.parseToJsonElement(it).jsonObject.mapValues { (_, v) -> v.toString() } }
        assertEquals(listOf("\"one \\\"quoted\\\"\\n\\tline\"", "\"two\""), rows.map { it["text"] })
        assertEquals("\"later\"", rows[1]["kind"])
    }

    @Test
    fun `what a run was asked to do comes back`() {
        val kept = Kept(File(folder, "run"))
        for (asked in listOf(Asked(File("/p \"q\""), File("/d"), null, 3), Asked(File("/p"), File("/d"), File("/e"), 1000))) {
            asked.write(kept)
            assertEquals(asked, Asked.read(kept))
        }
        File(kept.folder, "asked.json").writeText("{\"steps\":3}")
        assertThrows<UserError> { Asked.read(kept) }
    }

    @Test
    fun `the median of a benchmark is that of its times`() {
        assertEquals(2.0, Benchmark("a", 32, listOf(3.0, 1.0, 2.0)).median)
        assertEquals(2.5, Benchmark("a", 32, listOf(4.0, 1.0, 2.0, 3.0)).median)
    }

    @Test
    fun `scores become shares`() {
        val shares = Teacher.shares(floatArrayOf(1000f, 1000f, -1000f))
        assertEquals(listOf(0.5f, 0.5f, 0f), shares.toList())
    }
}
