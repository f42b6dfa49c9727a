package org.prge

import java.io.File
import kotlin.random.Random
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.prge.data.Example
import org.prge.loop.StepRecord

/** The API that apps use, on a runtime that is none. */
class FineTunerTest {
    @TempDir
    lateinit var filesDir: File
    private val runtime = FakeRuntime()
    private val chance = Random(1)
    private val texts = List(12) { "$it" to it % 2 }
    private val train = texts.map { (text, label) -> Example(tokens(text), label) }
    private val dev = List(5) { Example(tokens("$it"), it % 2) }
    private val settings = Settings(steps = 9, lr = 0.1, evalEvery = 4)

    private fun tokens(text: String) = IntArray(1 + chance.nextInt(6)) { 2 * (it + 1) + (text.toIntOrNull() ?: 0) % 2 }

    private fun open() = FineTuner.open(FakeRuntime.program(File(filesDir, "sst2")), runtime)

    @Test
    fun `the page's example runs`() {
        val shown = ArrayList<Int>()
        val stopped = false
        fun show(step: Int, loss: Double, accuracy: Double?) {
            shown += step
            assertTrue(loss >= 0 && (accuracy == null) == (step % 50 != 0))
        }
        val page = File("README.md").readText().substringAfter("```kotlin\n").substringBefore("```")
        val here = File("src/test/kotlin/org/prge/FineTunerTest.kt").readText()
            .substringAfter("// The page's example.\n").substringBefore("// Its end.").trimEnd(' ')
        assertEquals(page.replace("sst2\")).use", "sst2\"), runtime).use"), here.trimIndent() + "\n")
        FakeRuntime.program(File(filesDir, "sst2"))
        // The page's example.
        FineTuner.open(File(filesDir, "sst2"), runtime).use { tuner ->   // the folder that `prge export` wrote
            val train = texts.map { (text, label) -> Example(tokens(text), label) }
            val data = tuner.pack(File(filesDir, "data.prge"), train, dev)
            val watch = object : Progress {
                override fun goesOn() = !stopped                 // asked between executions
                override fun stepped(record: StepRecord, steps: Int) = show(steps, record.loss, record.dev?.accuracy)
            }
            val run = File(filesDir, "run")
            val outcome = tuner.train(run, data, Settings(steps = 150), watch)
            if (!outcome.completed) tuner.resume(run, data, watch)  // also in another process, or after a crash
            println(tuner.evaluate(run, dev).accuracy)
            val answer = tuner.predict(run, listOf(Example(tokens("a warm , funny film")))).first()
            println(tuner.manifest.labels[answer.answer!!].name)
        }
        // Its end.
        assertEquals((1..150).toList(), shown)
    }

    @Test
    fun `a run that is stopped anywhere and resumed is the same run`() {
        open().use { tuner ->
            val data = tuner.pack(File(filesDir, "data.prge"), train, dev, 3)
            val whole = tuner.train(File(filesDir, "whole"), data, settings)
            assertTrue(whole.completed)
            assertEquals(listOf(3, 7, 8), whole.records.filter { it.dev != null }.map { it.step })
            assertEquals(whole.before, whole.records[0].before)
            val executions = runtime.executions
            for (most in 1..executions) {
                val run = File(filesDir, "run-$most")
                var left = most
                val stopping = object : Progress {
                    override fun goesOn() = left-- > 0
                }
                val stopped = tuner.train(run, data, settings, stopping)
                assertFalse(stopped.completed && left < 0)
                val outcome = when {
                    stopped.completed -> stopped
                    run.exists() -> tuner.resume(run, progress = object : Progress {})
                    else -> tuner.train(run, data, settings)
                }
                assertTrue(outcome.completed)
                assertEquals(whole.best, outcome.best)
                assertArrayEquals(whole.state!!.readBytes(), outcome.state!!.readBytes())
                for ((one, other) in whole.records.zip(outcome.records))
                    assertEquals(one.loss to one.examples, other.loss to other.examples)
            }
        }
    }

    @Test
    fun `a run that is stopped before it begins leaves nothing`() {
        open().use { tuner ->
            val data = tuner.pack(File(filesDir, "data.prge"), train)
            val never = object : Progress {
                override fun goesOn() = false
            }
            val outcome = tuner.train(File(filesDir, "run"), data, settings, never)
            assertFalse(outcome.completed || File(filesDir, "run").exists())
            assertNull(outcome.state)
        }
    }

    @Test
    fun `answers come in the order of the examples`() {
        open().use { tuner ->
            val asked = List(7) { Example(tokens("${it / 2}")) }
            assertEquals(List(7) { 1 - it / 2 % 2 }, tuner.predict(null, asked).map { it.answer })
            assertEquals(emptyList<Any>(), tuner.predict(null, emptyList()))
        }
    }

    @Test
    fun `what makes no run is refused with a sentence`() {
        open().use { tuner ->
            val data = tuner.pack(File(filesDir, "data.prge"), train)
            for (odd in listOf(
                settings.copy(steps = 0), settings.copy(lr = Double.NaN), settings.copy(lr = -1.0),
                settings.copy(eps = 0.0), settings.copy(seed = -1), settings.copy(seed = 1L shl 31),
                settings.copy(evalEvery = -1), settings.copy(from = File("a\u0000b")),
                settings.copy(cache = "a\u0000b"), settings.copy(cache = "1.2.3GB"),
            )) assertThrows(UserError::class.java) { tuner.train(File(filesDir, "run"), data, odd) }
            assertFalse(File(filesDir, "run").exists())
            assertThrows(UserError::class.java) { tuner.train(File("/proc/none/run"), data, settings) }
            assertThrows(UserError::class.java) { tuner.train(File("a\u0000b"), data, settings) }
            assertThrows(UserError::class.java) { tuner.resume(File(filesDir, "none")) }
            assertThrows(UserError::class.java) { tuner.pack(File(filesDir, "empty.prge"), emptyList()) }
            assertThrows(UserError::class.java) { tuner.evaluate(null, emptyList()) }
            val odd = listOf(Example(intArrayOf(9999), 0))
            assertThrows(UserError::class.java) { tuner.pack(File(filesDir, "odd.prge"), odd) }
        }
    }

    @Test
    fun `no two runs share a folder`() {
        open().use { tuner ->
            val data = tuner.pack(File(filesDir, "data.prge"), train)
            val run = File(filesDir, "run")
            var refused = 0
            val meddling = object : Progress {
                override fun stepped(record: StepRecord, steps: Int) {
                    open().use { other ->
                        val said = assertThrows(UserError::class.java) { other.resume(run) }
                        assertTrue("another process trains there" in said.message!!)
                        refused++
                    }
                }
            }
            assertTrue(tuner.train(run, data, settings, meddling).completed)
            assertEquals(9, refused)
        }
    }

    @Test
    fun `tokens that the model has no embedding of are refused before they are read`() {
        open().use { tuner ->
            val most = tuner.manifest.vocabulary
            for (token in listOf(-1, most)) {
                val unknown = listOf(Example(intArrayOf(3, token), 1))
                val calls = listOf(
                    { tuner.pack(File(filesDir, "data.prge"), unknown) },
                    { tuner.pack(File(filesDir, "data.prge"), train, unknown) },
                    { tuner.evaluate(null, unknown) }, { tuner.predict(null, unknown) },
                    { tuner.generate(null, unknown[0].tokens) },
                )
                for (call in calls) {
                    val error = assertThrows(UserError::class.java) { call() }
                    assertTrue(error.message!!.startsWith("$token is none of the model's $most tokens"), error.message)
                }
            }
            assertFalse(File(filesDir, "data.prge").exists())
            assertEquals(0, runtime.executions)
            tuner.predict(null, listOf(Example(intArrayOf(most - 1))))
        }
    }
}
