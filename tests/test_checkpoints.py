"""The forms in which weights come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prge.errors import UserError
from prge.models.checkpoints import load_checkpoint


@pytest.mark.parametrize("form", ["bf16", "f16", "sharded", "pickle"])
def test_forms_of_checkpoints(form: str, tiny_model: Path, tmp_path: Path) -> None:
    """What is loaded are the model's weights, rounded where the file is, in float32."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(form, torch.float32)
    torch.nn.Module.to(model, dtype).save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "5GB")
    for file in tiny_model.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if form == "pickle":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(UserError, match="--allow-pickle"):
            load_checkpoint(str(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or form != "sharded"
    loaded = load_checkpoint(str(tmp_path), allow_pickle=form == "pickle").model
    for (name, ours), theirs in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert ours.dtype == torch.float32, name
        torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=0)
