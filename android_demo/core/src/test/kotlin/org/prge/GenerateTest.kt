package org.prge

import java.io.File
import kotlin.math.abs
import kotlin.math.exp
import kotlin.random.Random
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.jsonObject
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import org.junit.jupiter.api.io.TempDir
import org.prge.data.Example
import org.prge.examples.Encoder
import org.prge.program.GENERATE
import org.prge.program.Input
import org.prge.program.Loaded
import org.prge.program.Runtime
import org.prge.program.Writing
import org.prge.program.choose
import org.prge.tokenizer.TextStream

private const val LAYERS = 2
private const val KV = 2
private const val D = 3
private const val WORDS = 50
private const val STOP = 7
private const val CONTEXT = 150

class GenerateTest {
    @TempDir lateinit var folder: File

    /** The token behind others: it depends on all of them, and on the parameters. */
    private fun next(tokens: List<Int>, shift: Int): Int =
        (tokens.foldIndexed(shift.toLong()) { i, sum, token -> (sum + (i + 1L) * (token + 3)) % 1_000_003 } % WORDS).toInt()

    /**
     * Reads all earlier tokens out of the cache. Every number of it holds its token, and tells whether it lies in its
     * own place: the layer, row and column stand in the fraction.
     */
    private inner class Reader(private val at: File) : Loaded {
        override val methods = setOf("manifest", "forward")
        override fun prepare(method: String) = Unit
        override fun text(method: String) = File(at, GENERATE).readBytes().decodeToString().substringBefore("prge-seal")
        override fun numbers(method: String): FloatArray? = null
        override fun close() = Unit

        override fun forward(inputs: List<Input>): List<FloatArray> {
            val params = (inputs[0] as Input.Floats).numbers
            val row = (inputs[1] as Input.Longs).numbers.map { it.toInt() }
            val used = (inputs[2] as Input.Longs).numbers[0].toInt()
            val held = inputs.drop(3).map { it as Input.Floats }
            val size = held[0].shape[2].toInt()
            assertTrue(used + row.size <= CONTEXT && used <= size && size <= CONTEXT)
            assertEquals(List(LAYERS) { listOf<Long>(KV.toLong(), D.toLong(), size.toLong()) }, held.take(LAYERS).map { it.shape.toList() })
            assertEquals(List(LAYERS) { listOf<Long>(KV.toLong(), size.toLong(), D.toLong()) }, held.drop(LAYERS).map { it.shape.toList() })
            val seen = List(used) { held[0].numbers[it].toInt() } + row
            for ((i, one) in held.withIndex()) for (kv in 0 until KV) for (d in 0 until D) for (at in 0 until used)
                assertEquals(mark(i, kv, d, seen[at]), one.numbers[place(i, kv, d, at, size)])
            val new = List(2 * LAYERS) { i ->
                FloatArray(KV * D * row.size).also {
                    for (kv in 0 until KV) for (d in 0 until D) for (at in row.indices)
                        it[place(i, kv, d, at, row.size)] = mark(i, kv, d, row[at])
                }
            }
            return listOf(FloatArray(WORDS).also { it[next(seen, params.sum().toInt())] = 1f }) + new
        }

        private fun place(i: Int, kv: Int, d: Int, at: Int, size: Int) =
            if (i < LAYERS) (kv * D + d) * size + at else (kv * size + at) * D + d

        private fun mark(i: Int, kv: Int, d: Int, token: Int) = token + i / 64f + kv / 256f + d / 1024f
    }

    private fun opened(at: File = folder): FineTuner {
        FakeRuntime.program(at)
        val golden = JsonObject(FakeRuntime.manifest)
        val sizes = mapOf("layers" to LAYERS, "kv_heads" to KV, "head" to D, "vocabulary" to WORDS).mapValues { JsonPrimitive(it.value) }
        FakeRuntime.seal(
            File(at, GENERATE),
            golden + ("kind" to JsonPrimitive("generate")) + ("chunk" to JsonPrimitive(16)) + ("min_tokens" to JsonPrimitive(1)) +
                ("max_tokens" to JsonPrimitive(CONTEXT)) + ("stop_tokens" to JsonArray(listOf(JsonPrimitive(STOP)))) +
                ("architecture" to JsonObject(golden.getValue("architecture").jsonObject + sizes)),
        )
        val fake = FakeRuntime()
        return FineTuner.open(at, Runtime { file -> if (file.name == GENERATE) Reader(at) else fake.load(file) })
    }

    @Test
    fun `however long, a text goes on as all of it says`() {
        opened().use { tuner ->
            assertTrue(tuner.generates)
            for (length in listOf(1, 15, 16, 17, 63, 64, 65, 130, CONTEXT - 1)) {
                val prompt = List(length) { (it * 5 + length) % WORDS }
                val expected = ArrayList<Int>()
                while (expected.size < minOf(40, CONTEXT - length)) {
                    val token = next(prompt + expected, 0)
                    if (token == STOP) break
                    expected += token
                }
                val heard = ArrayList<Int>()
                val found = tuner.generate(null, prompt.toIntArray(), Writing(40)) { heard.add(it) }
                assertEquals(expected to expected, found to heard)
            }
            var left = 2
            assertEquals(2, tuner.generate(null, intArrayOf(1, 2), Writing(40)) { --left > 0 }.size)
        }
    }

    @Test
    fun `the page's second example runs`() {
        val filesDir = folder
        val (run, stopped) = File(folder, "run") to false
        val page = File("README.md").readText().substringAfterLast("```kotlin\n").substringBefore("```")
        val here = File("src/test/kotlin/org/prge/GenerateTest.kt").readText()
            .substringAfter("// The page's example.\n").substringBefore("// Its end.").trimEnd(' ')
        assertEquals(page.trimIndent(), here.trimIndent())
        val printed = StringBuilder()
        fun print(piece: String) = printed.append(piece)
        opened(File(filesDir, "sst2")).use { tuner ->
            File("../../tests/golden/tokenizers/bpe.json").copyTo(File(filesDir, "sst2/tokenizer.json"))
            val data = tuner.pack(File(folder, "data.prge"), listOf(Example(intArrayOf(4, 6, 8, 2), 1)))
            tuner.train(run, data, Settings(steps = 2, lr = 0.1))
            // The page's example.
            val encoder = Encoder.of(tuner.manifest.json.toString(), File(filesDir, "sst2"))
            val prompt = encoder.tokenizer.encode("dull and far too long . It was")
            val stream = TextStream(encoder.tokenizer, prompt)
            tuner.generate(run, prompt) { token -> print(stream.next(token)); !stopped }
            // Its end.
            val tokens = tuner.generate(run, prompt).toIntArray()
            val whole = encoder.tokenizer.decode(prompt + tokens)
            assertTrue(tokens.isNotEmpty())
            assertEquals(whole.trimEnd('\uFFFD'), "dull and far too long . It was$printed")
        }
    }

    @Test
    fun `what leaves no room, or belongs to another program, is a sentence`() {
        opened().use { tuner ->
            for ((prompt, said) in listOf(0 to "the prompt is empty", CONTEXT to "the prompt has $CONTEXT tokens"))
                assertTrue(assertThrows<UserError> { tuner.generate(null, IntArray(prompt)) }.message!!.startsWith(said))
            assertTrue("--top-p" in assertThrows<UserError> { tuner.generate(null, IntArray(1), Writing(topP = 2.0)) }.message!!)
        }
        val changed = FakeRuntime.manifest + ("model_sha256" to JsonPrimitive("other")) + ("kind" to JsonPrimitive("generate")) +
            ("chunk" to JsonPrimitive(1))
        FakeRuntime.seal(File(folder, GENERATE), changed)
        val fake = FakeRuntime()
        FineTuner.open(folder, Runtime { file -> if (file.name == GENERATE) Reader(folder) else fake.load(file) }).use { tuner ->
            assertTrue("of another program" in assertThrows<UserError> { tuner.generate(null, IntArray(1)) }.message!!)
        }
    }

    @Test
    fun `draws have the shares that the logits say, among the likeliest alone`() {
        val logits = floatArrayOf(1f, 3f, 2f, -1f, 2.5f)
        val weights = logits.map { exp(it / 0.8) }
        val random = Random(4)
        for (topP in listOf(1.0, 0.8, 0.0)) {
            val order = weights.indices.sortedByDescending { weights[it] }
            var before = 0.0
            val likeliest = order.filter { i -> (before < topP || i == order[0]).also { before += weights[i] / weights.sum() } }
            val all = likeliest.sumOf { weights[it] }
            val found = IntArray(5)
            repeat(20_000) { found[choose(logits, Writing(temperature = 0.8, topP = topP), random)]++ }
            for (i in found.indices) {
                val share = if (i in likeliest) weights[i] / all else 0.0
                assertTrue(abs(found[i] / 20_000.0 - share) < 0.02, "$topP, $i: ${found[i]}, $share")
                assertEquals(share == 0.0, found[i] == 0)
            }
        }
        assertEquals(1, choose(logits, Writing(), random))
    }
}
