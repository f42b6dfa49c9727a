"""The model card of an adapter: its README.md, as PEFT and the hub expect it."""

from __future__ import annotations

import json
from pathlib import Path

from prge.examples.form import template_columns
from prge.manifest import Manifest

CARD_FILE = "README.md"


def card(m: Manifest) -> str:
    """What the adapter of a program adapts, to data of which form, and how it is loaded.

    Of the data it has the columns' names and no text. Of a base in a folder it has the folder's name alone: a card is
    made to be shown.
    """
    on_hub = m.model.count("/") == 1 and not m.model.startswith(("/", ".", "~"))
    base = m.model if on_hub else Path(m.model).name
    head = [f"base_model: {json.dumps(base)}"] if on_hub else []
    head += ["library_name: peft", "tags:", *([f"- base_model:adapter:{base}"] if on_hub else []), "- lora", "- prge"]
    learned = f"one of {len(m.labels)} classes" if m.labels else "text"
    causal = m.adapter.task_type == "CAUSAL_LM"
    head += ["pipeline_tag: text-generation"] if causal else []
    loader = "AutoModelForCausalLM" if causal else "AutoModel" if m.adapter.task_type else "AutoModelForMaskedLM"
    return "\n".join(
        [
            "---", *head, "---", "",
            f"# An adapter of {base}",
            "",
            f"A LoRA adapter that [prge](https://arxiv.org/abs/2409.15520) trained: rank {m.adapter.rank}, alpha "
            f"{m.adapter.alpha:g}, {len(m.adapter.modules)} modules.",
            "",
            f"- **Base**: {base}, of whose parameters the SHA-256 is `{m.model_sha256}`.",
            f"- **Learned**: {learned}, from rows of up to {m.max_tokens} tokens{_columns(m)}.",
            "",
            "```python",
            "from peft import PeftModel",
            f"from transformers import {loader}",
            "",
            f"base = {loader}.from_pretrained({json.dumps(base)})",
            'model = PeftModel.from_pretrained(base, "path/of/this/folder")',
            "```",
            "",
        ]
    )  # fmt: skip


def _columns(m: Manifest) -> str:
    """The columns that the data must have, as words for the card."""
    if m.chat_template:
        return " of chats"
    names = dict.fromkeys(template_columns(m.template) + template_columns(m.target))
    names |= dict.fromkeys([m.label_column] if m.labels else [m.choices] if m.choices else [])
    kept = [f"`{name}`" for name in names if name not in ("mask", "choice")]
    return f" of the columns {', '.join(kept)}" if kept else ""
