package org.prge

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.params.ParameterizedTest
import org.junit.jupiter.params.provider.ValueSource
import org.prge.files.Odd
import org.prge.files.dump
import org.prge.files.parseJson

class JsonTest {
    @ParameterizedTest
    @ValueSource(
        strings = [
            "", " ", "tru", "nul", "NaN", "Infinity", "01", "1.", ".5", "+1", "0x1", "1e", "{", "}", "[1,]", "[1 2]",
            "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{'a':1}", "[1]]", "[1]2]", "[1]2", "{}}", "{} {}", "{\"a\":1}2}", "1 2", "\"a", "\"\\x\"", "\"\\u12\"",
            "\"a\nb\"", "\"a\u0000b\"", "{\"a\tb\":1}", "// a\n1", "[tru]", "[\"\\ud800\"]", "{\"\\udc00\":1}",
            "{\"a\":[{\"b\":fals}]}",
        ],
    )
    fun `what is no JSON is refused`(text: String) {
        assertThrows(Odd::class.java) { parseJson(text) }
    }

    @ParameterizedTest
    @ValueSource(
        strings = [
            "null", "true", "-0.5e-7", "{}", "[]", "\"\"",
            "{\"a\":[1,2.5,{\"b\":null}],\"c\":\"\\u00e9 \\ud83d\\ude00 \\n\\\\\"}",
        ],
    )
    fun `JSON comes back as it was`(text: String) {
        assertEquals(text, dump(parseJson(" $text\n")))
    }

    @ParameterizedTest
    @ValueSource(strings = ["NaN", "[-Infinity]", "{\"a\":Infinity}"])
    fun `numbers that JSON lacks are read where they are asked for`(text: String) {
        assertThrows(Odd::class.java) { parseJson(text) }
        assertEquals(text, dump(parseJson(text, loose = true)))
    }

    @ParameterizedTest
    @ValueSource(ints = [65, 100_000])
    fun `what is nested deep is refused`(depth: Int) {
        for (opening in listOf("[", "{\"a\":")) assertThrows(Odd::class.java) { parseJson(opening.repeat(depth)) }
        assertThrows(Odd::class.java) { parseJson("[".repeat(depth) + "]".repeat(depth)) }
    }
}
