package org.prge.tokenizer

import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Test
import org.prge.UserError

/** Small cases whose answers are plain. tests/test_kotlin_tokenizer.py compares with Python's library on thousands. */
class TokenizerTest {
    private val bytes = (0..255).joinToString("") { "\"<0x%02X>\":${it + 10},".format(it) }

    /** Llama 2's kind: spaces are signs, and the bytes of unknown characters are tokens. */
    private val llama = tokenizer(
        """
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
          "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "pair": [],
          "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
          "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
          {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
          {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
          "vocab": {$bytes "<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5, "ab": 6, "▁ab": 7},
          "merges": [["a", "b"], ["▁", "ab"], ["▁", "a"]]}
        """
    )

    @Test
    fun `the pair of the lowest rank is merged first`() {
        assertArrayEquals(intArrayOf(1, 7, 5), llama.encode("ab a"))
        assertArrayEquals(intArrayOf(7, 6), llama.encode("abab", special = false))
    }

    @Test
    fun `an unknown character becomes its bytes, and comes back whole with the last of them`() {
        val tokens = llama.encode("a😀", special = false)
        assertArrayEquals(intArrayOf(5, 0xF0 + 10, 0x9F + 10, 0x98 + 10, 0x80 + 10), tokens)
        assertEquals("a😀", llama.decode(tokens))
        val stream = TextStream(llama)
        assertEquals(listOf("a", "", "", "", "😀"), tokens.map(stream::next))
    }

    @Test
    fun `a special token is found in a text, and hidden from a reader`() {
        val tokens = llama.encode("a<s>a")
        assertArrayEquals(intArrayOf(1, 5, 1, 5), tokens)
        assertEquals("a a", llama.decode(tokens))
        assertEquals("<s> a<s> a", llama.decode(tokens, special = true))
    }

    @Test
    fun `a word of a million letters is no trouble`() {
        assertEquals(1_000_000, llama.encode("ab".repeat(1_000_000), special = false).size)
    }

    @Test
    fun `bytes that break off become one sign for each run`() {
        assertEquals("\uFFFDa\uFFFD\uFFFD\uFFFD", toText(bytesOf(0xF0, 0x9F, 0x98, 0x61, 0xED, 0xA0, 0xC3)))
    }

    @Test
    fun `what it does not know is refused by its name`() {
        val error = assertThrows(UserError::class.java) {
            tokenizer("\"normalizer\": {\"type\": \"Nmt\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}")
        }
        assertEquals(
            "tokenizer.json cannot be read: its normalizer of the type \"Nmt\" is unknown to this reader; " +
                "`prge pack` encodes examples with any tokenizer",
            error.message,
        )
    }

    private fun tokenizer(fields: String) =
        Tokenizer.read("{\"version\": \"1.0\", $fields}".byteInputStream(), "tokenizer.json")

    private fun bytesOf(vararg bytes: Int) = bytes.map(Int::toByte).toByteArray()
}
