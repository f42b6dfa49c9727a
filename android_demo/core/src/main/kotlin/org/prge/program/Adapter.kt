package org.prge.program

import java.io.File
import java.nio.file.Files
import kotlinx.serialization.json.JsonPrimitive
import org.prge.files.dump
import org.prge.files.replace
import org.prge.files.replaceChecked
import org.prge.files.spelled
import org.prge.files.writing

/** The adapter's folder in a run's. */
internal const val ADAPTER = "adapter"

/**
 * Writes a state as a folder that `PeftModel.from_pretrained` reads, with a model card, and with the bytes that prge's
 * other drivers write.
 *
 * @param frozen what [StepProgram.frozenFactors] gives.
 * @param state f32[state_size].
 * @throws UserError it cannot be written.
 */
internal fun saveAdapter(folder: File, m: Manifest, frozen: FloatArray, state: FloatArray) {
    writing(folder) { Files.createDirectories(folder.toPath()) }
    val shapes = LinkedHashMap<String, List<Int>>()
    val tensors = HashMap<String, () -> FloatArray>()
    var at = 0
    for (module in m.modules) {
        val down = at
        val up = down + m.rank * module.inFeatures
        at = up + if (m.subspace == null) 0 else module.outFeatures * module.columns
        val (a, b) = listOf("A", "B").map { "base_model.model.${module.name}.lora_$it.weight" }
        shapes[a] = listOf(m.rank, module.inFeatures)
        shapes[b] = listOf(if (m.subspace == null) module.columns else module.outFeatures, module.rows)
        tensors[a] = { frozen.copyOfRange(down, up) }
        tensors[b] = { if (m.subspace == null) turned(module, state) else product(module, frozen, up, state) }
    }
    m.trainedHead?.let { head ->
        val (a, b) = listOf("A", "B").map { "base_model.model.${head.name}.lora_$it.weight" }
        shapes[a] = listOf(head.columns, head.rows)
        shapes[b] = listOf(head.outFeatures, head.columns)
        tensors[a] = { turned(head, state) }
        tensors[b] = {
            FloatArray(head.outFeatures * head.columns).also { up ->
                m.labels.forEachIndexed { k, label -> up[label.token * head.columns + k] = head.gain.toFloat() }
            }
        }
    }
    val metadata = mapOf("format" to "pt") + m.identity
    replaceChecked(File(folder, "adapter_model.safetensors"), metadata, shapes) { tensors.getValue(it)() }
    replace(File(folder, "adapter_config.json"), configOf(m).toByteArray())
    replace(File(folder, "README.md"), card(m).toByteArray())
}

/** A matrix [columns, rows], of which the state holds the transpose. */
private fun turned(core: Core, state: FloatArray) = FloatArray(core.size) {
    state[core.offset + it % core.rows * core.columns + it / core.rows]
}

/**
 * B [out, rows]: the frozen factor D [out, columns] times R, of which the state holds the transpose.
 *
 * Summed in doubles and in order, so that all drivers have the same bits. A product of two float32 is exact there.
 */
private fun product(module: AdaptedModule, frozen: FloatArray, at: Int, state: FloatArray): FloatArray {
    val (rows, columns) = module.rows to module.columns
    return FloatArray(module.outFeatures * rows) {
        val d = at + it / rows * columns
        val r = module.offset + it % rows * columns
        var sum = 0.0
        for (k in 0 until columns) sum += frozen[d + k].toDouble() * state[r + k]
        sum.toFloat()
    }
}

/** The text of adapter_config.json, spelled as Python's `json.dumps(config, indent=2)` does. */
private fun configOf(m: Manifest): String {
    fun text(given: String) = dump(JsonPrimitive(given))
    val own = m.trainedHead?.let { "{\n    ${text(it.name)}: ${it.columns}\n  }" }
    val fields = listOfNotNull(
        "peft_type" to text("LORA"), "task_type" to (m.taskType?.let(::text) ?: "null"),
        "fan_in_fan_out" to "${m.fanInFanOut}", "base_model_name_or_path" to text(m.model), "r" to "${m.rank}",
        "lora_alpha" to spelled(m.alpha),
        "target_modules" to m.cores.joinToString(",\n    ", "[\n    ", "\n  ]") { text(it.name) },
        "lora_dropout" to "0.0", "bias" to text("none"), "inference_mode" to "true",
        own?.let { "rank_pattern" to it }, own?.let { "alpha_pattern" to it },
    )
    return fields.joinToString(",\n", "{\n", "\n}\n") { (name, value) -> "  \"$name\": $value" }
}
