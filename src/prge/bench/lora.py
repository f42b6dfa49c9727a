"""What a program is compared with: PEFT's LoRA, AdamW and backpropagation in PyTorch, on the same base and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prge.errors import UserError
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate


class LoraAdamW:
    """LoRA on the linears that make queries and values, in float32.

    The loss is the program's: over the label words, at the last token. Only their rows of the head are computed.
    """

    def __init__(self, manifest: Manifest, *, rank: int, seed: int, lr: float, checkpointed: bool = False):
        if manifest.answer_at != "last":
            raise UserError(f"{manifest.model} is an encoder; the bench compares decoders")
        with quiet():
            from peft import LoraConfig, get_peft_model

            from prge.models.checkpoints import load_checkpoint
            from prge.models.families import Parts

            model = load_checkpoint(manifest.model).model
        parts = Parts(model)
        names = parts.family.queries_keys_values
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=[names[0], names[-1]])
        self.head = parts.head.weight.detach()[[label.token for label in manifest.labels]].clone()
        adapted: Any = get_peft_model(model, config)
        if checkpointed:
            adapted.enable_input_require_grads()
            adapted.gradient_checkpointing_enable({"use_reentrant": False})
            adapted.train()
        self.decoder = adapted.base_model.model.base_model
        self.manifest, self.lr = manifest, lr
        trainable = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=lr)

    def scores(self, examples: Sequence[Example]) -> torch.Tensor:
        """The label words' logits, f32[n, K]."""
        tokens, (position, _) = collate(examples, self.manifest)
        hidden = self.decoder(tokens, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(examples)), position[:, 0]] @ self.head.T

    def step(self, batch: Sequence[Example], scale: float = 1.0) -> None:
        """Make one update on a batch, with ``scale`` times lr."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * scale
        labels = torch.tensor([e.label for e in batch])
        loss = torch.nn.functional.cross_entropy(self.scores(batch), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def accuracy(self, examples: Sequence[Example]) -> float:
        """Share of the examples whose right word scores highest."""
        ordered = sorted(examples, key=lambda e: len(e.tokens))
        right = 0
        with torch.no_grad():
            for start in range(0, len(ordered), 16):
                part = ordered[start : start + 16]
                labels = torch.tensor([e.label for e in part])
                right += int((self.scores(part).argmax(1) == labels).sum())
        return right / len(ordered)
