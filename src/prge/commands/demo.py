"""What `prge demo` does."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from prge.commands.evaluate import predict
from prge.commands.export import export, standard
from prge.commands.train import begin, resume
from prge.examples.form import Form
from prge.examples.read import read_records
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.loop.stopping import Limits
from prge.runtime_driver.run.folder import CONFIG_FILE

_TEMPLATE = "{text} This is"
_LABELS = (("today", " urgent"), ("later", " good"))


def demo(output: Path, model: str, steps: int, console: Console | None) -> dict[str, Any]:
    """`prge demo`: export, train, and predict three messages of the test set; what is done is reused."""
    program, run = output / f"program-{Path(model).stem}", output / f"run-{Path(model).stem}-{steps}-steps"
    done = run / "result.json"
    files = resources.files("prge.demo")
    with resources.as_file(files / "train.tsv") as train_file, resources.as_file(files / "test.tsv") as test_file:
        if not program.exists():
            form = Form(_TEMPLATE, _LABELS, max_tokens=64, max_targets=32)
            export(model, program, form, standard, train_file, console)
        if not done.exists():
            if (run / CONFIG_FILE).exists():
                trained = resume(run, Limits(), console)
            else:
                source = Source(str(train_file), str(test_file))
                trained = begin(
                    program, source, run, steps=steps, lr=None, eps=None, seed=0, eval_every=max(1, steps // 5),
                    limits=Limits(), console=console,
                )  # fmt: skip
            if not trained["completed"]:
                return trained
            done.write_text(json.dumps(trained) + "\n")
        trained = json.loads(done.read_text())
        texts = [record["text"] for _, record in read_records(test_file)[:3]]
    result = {k: trained[k] for k in ("before", "after", "seconds", "seconds_per_step", "picture", "adapter")}
    for i, p in enumerate(predict(program, texts, None, run, False, None), 1):
        result[f"prediction_{i}"] = f"{p['label']} ({p['probability']:.2f}): {p['text']}"
    return result
