"""What a program is compared with: PEFT's LoRA, AdamW and backpropagation in PyTorch, on the same base and prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prge.errors import UserError
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.models.engine import Scale
from prge.models.objective import LabelWords, LanguageModel, take_rows
from prge.models.parts import Parts
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.loop.evaluate import Evaluation, scored

# Rows of an evaluation that run at once.
_ROWS = 16


class LoraAdamW:
    """LoRA on the linears that make queries and values, in float32.

    The loss is the program's own: over the label words at the answering token, or the mean over the target tokens. The
    head runs at these positions alone.
    """

    def __init__(self, manifest: Manifest, *, rank: int, seed: int, lr: float, checkpointed: bool = False):
        with quiet():
            from peft import LoraConfig, get_peft_model

        parts = load_base(manifest)
        self.objective = objective_of(parts, manifest)
        names = parts.family.queries_keys_values
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=[names[0], names[-1]])
        adapted: Any = get_peft_model(parts.model, config)
        if checkpointed:
            adapted.enable_input_require_grads()
            adapted.gradient_checkpointing_enable({"use_reentrant": False})
            adapted.train()
        self.decoder = adapted.base_model.model.base_model
        self.manifest, self.lr = manifest, lr
        self.trainable = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=lr)

    def losses(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """The rows' losses f32[n]; and the label words' logits f32[n, K], or the loss of each target f32[n, M]."""
        hidden, targets = answer_states(self.decoder, examples, self.manifest)
        losses, detail = self.objective(hidden, *targets)
        return losses.sum(1), detail

    def step(self, batch: Sequence[Example], scale: float = 1.0) -> None:
        """Make one update on a batch, with ``scale`` times lr."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * scale
        loss = self.losses(batch)[0].mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def keep(self) -> None:
        """Remember the adapter as it is."""
        self.kept = [p.detach().clone() for p in self.trainable]

    def restore(self) -> None:
        """Go back to the adapter that was kept. The optimizer stays."""
        for parameter, kept in zip(self.trainable, self.kept, strict=True):
            parameter.data.copy_(kept)

    def evaluate(self, examples: Sequence[Example]) -> Evaluation:
        """As `prge.runtime_driver.loop.evaluate.evaluate` does it for a program."""
        rows = [row for e in examples for row in e.rows]
        losses, scores = torch.zeros(len(rows)), torch.zeros(len(rows), len(self.manifest.labels))
        with torch.no_grad():
            for part in by_length(rows):
                losses[part], detail = self.losses([rows[i] for i in part])
                if self.manifest.labels:
                    scores[part] = detail
        return scored(self.manifest, examples, losses, scores)


def load_base(manifest: Manifest) -> Parts:
    """The model that a program was made of, in float32.

    Raises:
        UserError: it cannot be loaded, or is an encoder.
    """
    if manifest.answer_at != "last":
        raise UserError(f"{manifest.model} is an encoder; the bench compares decoders")
    with quiet():
        from prge.models.checkpoints import load_checkpoint

        return Parts(load_checkpoint(manifest.model).model)


def objective_of(parts: Parts, manifest: Manifest) -> LabelWords | LanguageModel:
    """The program's loss, of hidden states behind the last norm."""
    scale = Scale(parts.logit_scale)
    if manifest.labels:
        return LabelWords(scale, parts.head, manifest.words, parts.final_cap)
    return LanguageModel(scale, parts.head, manifest.max_targets, parts.final_cap)


def answer_states(
    decoder: nn.Module, examples: Sequence[Example], manifest: Manifest
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The last hidden states where n rows' targets are predicted, f32[n, M, H], and the targets as `collate` has them.

    M is the most targets that one of the rows has.
    """
    tokens, (position, *targets) = collate(examples, manifest)
    most = max(1, *(e.targets for e in examples))
    hidden = decoder(tokens, use_cache=False).last_hidden_state
    return take_rows(hidden, position[:, :most]), tuple(t[:, :most] if t.dim() == 2 else t for t in targets)


def by_length(rows: Sequence[Example]) -> Iterator[list[int]]:
    """The rows' indices in groups of like length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    for start in range(0, len(order), _ROWS):
        yield order[start : start + _ROWS]
