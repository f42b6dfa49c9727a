package org.prge.examples

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import org.prge.described

/** Records become the examples that every driver makes of them: tests/golden/README.md explains the file. */
class GoldenRowsTest {
    @TempDir
    lateinit var folder: File

    @TestFactory
    fun `records become the examples of the golden vectors`(): List<DynamicTest> {
        val manifests = json("manifests.json").jsonObject
        return json("rows.json").jsonObject.getValue("cases").jsonArray.mapIndexed { i, case ->
            val fields = case.jsonObject
            val name = fields.getValue("manifest").jsonPrimitive.content
            DynamicTest.dynamicTest("$i, $name") {
                val tokenizer = fields.getValue("tokenizer").jsonPrimitive.content
                GOLDEN.resolve("tokenizers/$tokenizer.json").copyTo(folder.resolve("tokenizer.json"), overwrite = true)
                GOLDEN.resolve("chat.json").copyTo(folder.resolve(Chat.FILE), overwrite = true)
                val data = folder.resolve("data.jsonl")
                data.writeText(fields.getValue("records").jsonArray.joinToString("\n"))
                val truncate = fields.getValue("truncate").jsonPrimitive.boolean
                val made = Encoder.of(manifests.getValue(name).toString(), folder, truncate).examples(data)
                assertEquals(fields["examples"], JsonArray(made.map(::described)))
            }
        }
    }

    private fun json(name: String) = Json.parseToJsonElement(GOLDEN.resolve(name).readText())

    private companion object {
        val GOLDEN = File("../../tests/golden")
    }
}
