"""A linear probe: multinomial logistic regression on the frozen model's last hidden state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from prge.bench.lora import answer_states, by_length, load_base
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.regression import Regression, choose
from prge.runtime_driver.loop.evaluate import Evaluation, scored


class Probe:
    """The regression on the hidden states of a program's base, at the position where it predicts the label word."""

    def __init__(self, manifest: Manifest, seed: int):
        self.manifest, self.seed = manifest, seed
        self.decoder = load_base(manifest).model.base_model
        self.regression: Regression | None = None

    def features(self, examples: Sequence[Example]) -> Tensor:
        """Hidden states f32[n, H]."""
        found = torch.zeros(len(examples), self.manifest.architecture.hidden)
        with torch.no_grad():
            for part in by_length(examples):
                hidden, _ = answer_states(self.decoder, [examples[i] for i in part], self.manifest)
                found[part] = hidden.squeeze(1)
        return found

    def train(self, examples: Sequence[Example]) -> None:
        """Fit to examples."""
        labels = torch.tensor([e.label for e in examples])
        self.regression, _ = choose(self.features(examples), labels, len(self.manifest.labels), self.seed)

    def evaluate(self, examples: Sequence[Example]) -> Evaluation:
        """As for a program; the classes' logits are the scores."""
        assert self.regression is not None
        scores = self.regression.scores(self.features(examples)).float()
        losses = F.cross_entropy(scores, torch.tensor([e.label for e in examples]), reduction="none")
        return scored(self.manifest, examples, losses, scores)
