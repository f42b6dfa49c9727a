package org.prge.examples

import java.io.File
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.prge.UserError

class ReadTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `formats agree`() {
        val files = mapOf(
            "a.jsonl" to "{\"text\": \"one, \\\"1\\\"\", \"label\": 0}\n\n{\"text\": \"two\", \"label\": \"1\"}\n",
            "a.json" to "[{\"text\": \"one, \\\"1\\\"\", \"label\": 0}, {\"text\": \"two\", \"label\": \"1\"}]",
            "a.csv" to "text,label\r\n\"one, \"\"1\"\"\",0\r\ntwo,1\r\n",
            "a.tsv" to "text\tlabel\none, \"1\"\t0\ntwo\t1\n",
            "bare.tsv" to "one, \"1\"\t0\ntwo\t1",
        )
        val expected = listOf(mapOf("text" to "one, \"1\"", "label" to "0"), mapOf("text" to "two", "label" to "1"))
        for ((name, content) in files) assertEquals(expected, read(name, content).map { it.record }, name)
    }

    @Test
    fun `numbers are spelled as in Python`() {
        val numbers = "1, -0, 1.50, 1.5e-7, 1e16, 1e15, 5.684341886080802e-14, 5e-324, 0.0001, -1e22, 1e400, true, null"
        val record = read("a.jsonl", "{\"n\": 0, " + numbers.split(", ").withIndex()
            .joinToString { (i, number) -> "\"$i\": $number" } + "}").single().record
        assertEquals(
            "0 1 0 1.5 1.5e-07 1e+16 1000000000000000.0 5.684341886080802e-14 5e-324 0.0001 -1e+22 Infinity true ",
            record.values.joinToString(" "),
        )
    }

    @Test
    fun `malformed files name the place`() {
        val cases = listOf(
            Triple("a.jsonl", "{\"text\": \"x\"}\n{\"text\": ", "line 2: not a JSON object"),
            Triple("a.jsonl", "{\"text\": \"\\ud800\"}", "line 1: not JSON (half a surrogate pair"),
            Triple("a.jsonl", "{\"text\": tru}", "line 1: not JSON (tru is no value)"),
            Triple("a.jsonl", "[1]\n", "record 1: a list of JSON objects was expected"),
            Triple("a.csv", "text,label\na,0\nb\n", "line 3: 1 columns where 2 were expected"),
            Triple("a.csv", "text,label\n\"a,0\n", "line 2: a quote is never closed"),
            Triple("a.tsv", "a\t0\nb\t1\tc\n", "line 2: 3 columns"),
            Triple("a.jsonl", "", "holds no examples"),
            Triple("a.xlsx", "x", "unknown kind"),
            Triple("a.json", "[".repeat(100_000), "not JSON"),
        )
        for ((name, content, message) in cases) {
            val error = assertThrows(UserError::class.java, { read(name, content) }, message)
            assertEquals(true, message in error.message!!, error.message)
        }
    }

    @Test
    fun `shuffles as Python does`() {
        val small = (0..9).toMutableList().also(Twister(0)::shuffle)
        assertEquals(listOf(7, 8, 1, 5, 3, 4, 2, 0, 9, 6), small)
    }

    private fun read(name: String, content: String): List<Numbered> =
        readRecords(folder.resolve(name).apply { writeText(content) }, Expected(listOf("text", "label")))
}
