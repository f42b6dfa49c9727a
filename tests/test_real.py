"""Once on the real model: SmolLM2-135M in float32 on XNNPACK, with real sentences."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from peft import PeftModel

from prge.errors import UserError
from prge.examples.read import read_records
from prge.export.config import ExportConfig
from prge.export.program import REPORT_FILE, export_program
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import Checkpoint, load_checkpoint
from prge.models.step import StepConfig
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.state import save_peft
from prge.runtime_driver.program.step import StepProgram

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2" / "dev.tsv"
SENTENCES = [
    "a gripping , lovely film\t1",
    "dull and far too long\t0",
    "the cast is a delight\t1",
    "a waste of time\t0",
]


@pytest.fixture(scope="module")
def checkpoint() -> Callable[[], Checkpoint]:
    """A fresh copy at every call: exporting consumes the model."""
    try:
        with quiet():
            loaded = load_checkpoint("smollm2-135m")
    except UserError as e:
        pytest.skip(f"SmolLM2-135M is out of reach: {e}")
    return lambda: copy.deepcopy(loaded)


@pytest.fixture(scope="module")
def program(checkpoint: Callable[[], Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> StepProgram:
    folder = tmp_path_factory.mktemp("real") / "program"
    config = ExportConfig(
        adapter=AdapterConfig(),
        step=StepConfig(queries=2, batch=4),
        template="{text} It was",
        label_words=(("0", " terrible"), ("1", " great")),
        min_tokens=32,
        max_tokens=32,
    )
    with quiet():
        export_program(checkpoint(), config, folder)
    return StepProgram(folder)


def test_the_real_model(program: StepProgram, checkpoint: Callable[[], Checkpoint], tmp_path: Path) -> None:
    """Delegation, size, one step against the reference, and PEFT's logits."""
    report = json.loads((program.path.parent / REPORT_FILE).read_text())
    assert report["delegate_calls"] <= 10 and report["inside_share"] > 0.999
    assert report["program_bytes"] < 1.03 * report["weight_bytes"]  # nothing is stored twice

    lines = SST2.read_text().splitlines()[10:] if SST2.exists() else SENTENCES
    data = tmp_path / "data.tsv"
    data.write_text("\n".join(line for line in lines if len(line) < 90))
    m = program.manifest
    batch = Encoder(m, program.path.parent / "tokenizer.json").examples(data, 4)
    hf, frozen = checkpoint().model, program.frozen()
    size = m.parameters
    state = 0.05 * torch.randn(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gradient, expected_losses = reference.activation_estimate(hf, m, frozen, state, batch, 77, 0.1)
    new_state, each = program.step(torch.cat((state, torch.zeros(2 * size))), *collate(batch, m), 77, 0.1, 0.1)
    loss = float(each.mean())
    assert abs(loss - expected_losses.mean()) < 1e-4
    torch.testing.assert_close(10 * new_state[size : 2 * size], gradient, rtol=1e-3, atol=1e-3)
    assert gradient.abs().max() > 0.1
    state = torch.cat((state, torch.zeros(2 * size)))
    evaluation = evaluate(program, state, batch)
    torch.testing.assert_close(evaluation.losses, expected_losses, rtol=0, atol=1e-4)

    save_peft(tmp_path / "adapter", m, frozen, state)
    adapted = PeftModel.from_pretrained(hf, str(tmp_path / "adapter")).eval()
    tokens = [label.token for label in m.labels]
    with torch.no_grad():
        scores = torch.stack([adapted(torch.tensor([e.tokens])).logits[0, -1, tokens] for e in batch])
    assert evaluation.scores is not None
    torch.testing.assert_close(evaluation.scores, scores, rtol=0, atol=1e-3)


def test_a_second_load_is_the_same_model(program: StepProgram) -> None:
    """Where it came as GGUF, the second one reads what the first one made of it."""
    with quiet():
        assert load_checkpoint("smollm2-135m").digest() == program.manifest.model_sha256


@pytest.mark.parametrize("quantization", ["8da8w", "8da4w"])
def test_quantized_estimates_are_those_of_the_same_weights_in_float32(
    quantization: str, checkpoint: Callable[[], Checkpoint], demo_data: Path, tmp_path: Path
) -> None:
    """On real text, at the default eps: correlation with estimates of the rounded weights at a tiny eps.

    Of three batches together: a batch of three texts alone gave anything from 0.88 to 0.997.
    """
    config = ExportConfig(
        adapter=AdapterConfig(subspace="fisher"),
        step=StepConfig(queries=6, batch=3),
        template="{text} This is",
        label_words=(("today", " urgent"), ("later", " good")),
        min_tokens=48,
        max_tokens=48,
        quantization=quantization,  # type: ignore[arg-type]
    )
    texts = [record for _, record in read_records(demo_data / "train.tsv")[:16]]
    with quiet():
        export_program(checkpoint(), config, tmp_path / "program", records=texts)
    program = StepProgram(tmp_path / "program")
    m, frozen, hf = program.manifest, program.frozen(), checkpoint().model
    reference.round_weights(hf, quantization)
    examples = Encoder(m, tmp_path / "program" / "tokenizer.json", truncate=True).examples(demo_data / "test.tsv", 9)
    size, pairs = m.parameters, []
    for batch in (examples[:3], examples[3:6], examples[6:]):
        with torch.no_grad():
            exact, _ = reference.activation_estimate(hf, m, frozen, torch.zeros(size), batch, 77, 2e-3)
        new_state, _ = program.step(program.initial_state(), *collate(batch, m), 77, 0.0, m.eps)
        pairs.append(torch.stack((exact, new_state[size : 2 * size])))
    assert torch.corrcoef(torch.cat(pairs, 1))[0, 1] >= 0.97
