package org.prge.program

import kotlinx.serialization.json.JsonPrimitive
import org.prge.examples.CHOICE
import org.prge.examples.MASK
import org.prge.examples.Template
import org.prge.files.dump
import org.prge.files.rounded

/** The model card of an adapter, its README.md, in the words of prge's card.py. */
internal fun card(m: Manifest): String {
    val onHub = m.model.count { it == '/' } == 1 && m.model[0] !in "/.~"
    val base = if (onHub) m.model else m.model.split('/').lastOrNull { it != "" && it != "." }.orEmpty()
    val quoted = dump(JsonPrimitive(base))
    val causal = m.taskType == "CAUSAL_LM"
    val loader = if (causal) "AutoModelForCausalLM" else if (m.taskType != null) "AutoModel" else "AutoModelForMaskedLM"
    val learned = if (m.labelWords) "one of ${m.labels.size} classes" else "text"
    return listOfNotNull(
        "---",
        "base_model: $quoted".takeIf { onHub },
        "library_name: peft",
        "tags:",
        "- base_model:adapter:$base".takeIf { onHub },
        "- lora",
        "- prge",
        "pipeline_tag: text-generation".takeIf { causal },
        "---",
        "",
        "# An adapter of $base",
        "",
        "A LoRA adapter that [prge](https://arxiv.org/abs/2409.15520) trained: rank ${m.rank}, alpha " +
            "${rounded(m.alpha)}, ${m.modules.size} modules.",
        "",
        "- **Base**: $base, of whose parameters the SHA-256 is `${m.modelSha256}`.",
        "- **Learned**: $learned, from rows of up to ${m.maxTokens} tokens${columns(m)}.",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import $loader",
        "",
        "base = $loader.from_pretrained($quoted)",
        "model = PeftModel.from_pretrained(base, \"path/of/this/folder\")",
        "```",
        "",
    ).joinToString("\n")
}

/** The columns that the data must have, as words for the card. */
private fun columns(m: Manifest): String {
    if (m.chatTemplate != "") return " of chats"
    val named = Template(m.template).columns + Template(m.target).columns
    val more = if (m.labelWords) m.labelColumn else m.choicesColumn
    val kept = (named + more).distinct().filter { it !in setOf("", MASK, CHOICE) }
    return if (kept.isEmpty()) "" else kept.joinToString(prefix = " of the columns ") { "`$it`" }
}
