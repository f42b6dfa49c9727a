"""What `prge data` does: it shows how a file is read before anything is exported or trained."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from prge.commands.ask import commands, with_options
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.detect import FormOptions, Reading, Unsure, described, read_form
from prge.examples.form import Form, Numbered, fill
from prge.examples.keep import Kept, counted, read_kept
from prge.examples.read import part_file, place
from prge.options import AnyPath, Option
from prge.quiet import quiet

# Stands for a chat template where the model's is not known.
_TRANSCRIPT = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def look_at(
    file: Annotated[AnyPath, Option("Examples: .jsonl, .csv, .tsv, .txt ..., or a folder.", argument=True)],
    model: Annotated[str | None, Option("Also count tokens and choose label words as for this model.")] = None,
    form: FormOptions = FormOptions(),
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Show how a file of examples is read: what is inferred, what is learned, and what is left out.

    Returns:
        ``format`` and ``inferred``; how many ``examples``; the ``first`` three, each its ``prompt`` and the part that
        is ``learned``; ``lengths`` in tokens, or without a model in characters; ``duplicates``; ``classes``, how often
        each occurs; what is ``left_out`` and why; ``notes``; and what was ``unsure``, with a command for each way.

    Raises:
        UserError: the file cannot be read, or nothing is known to be learned from it.
    """
    path, unsure = Path(file), list[str]()
    asked = form
    while True:
        try:
            reading = read_form(asked, path)
            break
        except Unsure as e:
            unsure.append(f"{e.question}: {', or '.join(commands(e))}")
            asked = with_options(asked, e.ways[0][1])
    file, notes = part_file(path, "train"), list(reading.notes)
    found, unit = reading.form, "characters"
    length: Callable[[Form, Any, str], int] = _characters
    if model:
        hooks.show("load", 0, None, model)
        found, length = _of_model(model, reading, file)
        unit = "tokens"
    elif found.chat:
        found = replace(found, chat=Chat(_TRANSCRIPT))
        notes.append("the conversations are shown as plain transcripts; with --model by its chat template")
    kept = read_kept(found, file)
    if not kept.records:
        raise UserError(f"{file} holds nothing to learn from")
    sizes = [(length(found, record, place(file, n)), n) for n, record in kept.records]
    most, where = max(sizes, key=lambda size: size[0])
    return {
        "file": str(file),
        "format": reading.format or "by the options",
        "inferred": described(found),
        "examples": len(kept.records),
        "first": [_shown(found, each, file) for each in kept.records[:3]],
        "lengths": {
            "unit": unit, "median": int(statistics.median(size for size, _ in sizes)), "longest": most,
            "where": place(file.name, where),
        },
        "duplicates": _duplicates(found, kept),
        "classes": dict(Counter(record[found.label_column] for _, record in kept.records)) if found.labels else {},
        "left_out": kept.told,
        "notes": notes,
        "unsure": unsure,
    }  # fmt: skip


def _of_model(model: str, reading: Reading, file: Path) -> tuple[Form, Callable[[Form, Any, str], int]]:
    """The form with what a model's tokenizer settles, and what counts an example's tokens."""
    with quiet():
        from prge.export.fit_form import fitted, templated
        from prge.export.prompts import row_maker
        from prge.models.checkpoints import load_outline

        checkpoint = load_outline(model)
    form = templated(reading.form, checkpoint, model)
    form = fitted(form, checkpoint, read_kept(form, file).records, file)
    maker = row_maker(checkpoint, form)
    return form, lambda _, record, where: max(sum(map(len, pair)) for pair in maker.pairs(record, where))


def _characters(form: Form, record: Any, where: str) -> int:
    return sum(len(text) for text in _texts(form, record, where))


def _texts(form: Form, record: Any, where: str) -> tuple[str, str]:
    """A record's prompt and the part that is learned."""
    prompt = fill(form.template, {"mask": "[mask]", **record}, where)
    if not form.labels:
        return prompt, fill(form.target, record, where)
    name = record[form.label_column]
    return prompt, dict(form.labels).get(name) or f" {name}"


def _shown(form: Form, numbered: Numbered, file: Path) -> dict[str, str]:
    where = place(file, numbered[0])
    prompt, learned = _texts(form, numbered[1], where)
    return {"where": place(file.name, numbered[0]), "prompt": prompt, "learned": learned}


def _duplicates(form: Form, kept: Kept) -> list[str]:
    """Texts that occur more than once, and those of them that have different classes."""
    places: dict[str, list[int]] = {}
    classes: dict[str, set[str]] = {}
    for number, record in kept.records:
        text = form.text(record)
        places.setdefault(text, []).append(number)
        classes.setdefault(text, set()).add(str(record.get(form.label_column)) if form.labels else "")
    again = sorted(n for numbers in places.values() for n in numbers[1:])
    torn = sorted(n for text, numbers in places.items() if len(classes[text]) > 1 for n in numbers)
    found = [f"the text of another one again: {counted(again)}"] if again else []
    return found + ([f"the same text with different classes: {counted(torn)}"] if torn else [])
