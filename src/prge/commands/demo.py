"""What `prge demo` does."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from prge.commands.evaluate import predict
from prge.commands.export import export_form, standard
from prge.commands.hooks import Hooks
from prge.commands.train import resume, train
from prge.examples.form import Form
from prge.examples.read import read_records
from prge.files.typed import to_json
from prge.options import AnyPath, Option
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.run.folder import CONFIG_FILE

_FORM = Form("{text} This is", (("today", " urgent"), ("later", " good")), max_tokens=64, max_targets=32)


def demo(
    output: Annotated[AnyPath, Option("Folder for program and run.", ("--output", "-o"))] = "demo-out",
    model: Annotated[str, Option("A preset, folder, .gguf file or hub id.")] = "smollm2-135m",
    steps: Annotated[int, Option("Number of steps.", least=1)] = 300,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Teach a language model which messages need a reply today, end to end; what is done already is reused."""
    stem = Path(model).stem
    program, run = Path(output, f"program-{stem}"), Path(output, f"run-{stem}-{steps}-steps")
    done = run / "result.json"
    files = resources.files("prge.demo")
    with resources.as_file(files / "train.tsv") as train_file, resources.as_file(files / "test.tsv") as test_file:
        if not program.exists():
            export_form(model, program, _FORM, standard, Source(str(train_file), dev_fraction=0.0), hooks)
        if not done.exists():
            if (run / CONFIG_FILE).exists():
                trained = resume(run, hooks=hooks)
            else:
                source = Source(str(train_file), str(test_file))
                trained = train(program, run, source, steps=steps, eval_every=max(1, steps // 5), hooks=hooks)
            if not trained["completed"]:
                return trained
            done.write_text(to_json(trained) + "\n", encoding="utf-8")
        trained = json.loads(done.read_text(encoding="utf-8"))
        texts = [record["text"] for _, record in read_records(test_file)[:3]]
    result = {k: trained[k] for k in ("before", "after", "seconds", "seconds_per_step", "picture", "adapter")}
    for i, p in enumerate(predict(program, tuple(texts), state=run)["predictions"], 1):
        result[f"prediction_{i}"] = f"{p['label']} ({p['probability']:.2f}): {p['text']}"
    return result
