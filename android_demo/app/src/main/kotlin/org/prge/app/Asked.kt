package org.prge.app

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.put
import org.prge.UserError

/**
 * What a run is to do. It is on disk before the run begins, so that the app can begin it anew where the process ended.
 *
 * @property program its folder.
 * @property data the examples, as they were given.
 * @property dev examples to evaluate on; null to keep some of [data] back.
 */
data class Asked(val program: File, val data: File, val dev: File?, val steps: Int) {
    fun write(kept: Kept) {
        kept.folder.mkdirs()
        val json = buildJsonObject {
            put("program", program.path)
            put("data", data.path)
            put("dev", dev?.path)
            put("steps", steps)
        }
        File(kept.folder, NAME).writeText("$json\n")
    }

    companion object {
        private const val NAME = "asked.json"

        /** @throws UserError it cannot be read. */
        fun read(kept: Kept): Asked = try {
            val json = Json.parseToJsonElement(File(kept.folder, NAME).readText()).jsonObject
            fun file(name: String) = (json[name] as? JsonPrimitive)?.takeIf { it.isString }?.let { File(it.content) }
            Asked(file("program")!!, file("data")!!, file("dev"), json["steps"]!!.jsonPrimitive.int)
        } catch (e: Exception) {
            throw UserError("${kept.name} does not say what it was to do; remove it and begin anew")
        }
    }
}
