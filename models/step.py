"""One fine-tuning step as one forward function: from a state and a batch to the next state.

There are four ways to the gradient:

* `FullStep` has all of it, as backpropagation does. Reverse mode is written into the graph, which goes forward through
  the layers and back through their transposed weights. The runtime sees forward operators alone.
* `ExactStep` has it exactly along the target tokens' own path. Only these tokens go back, which costs little.
* `WeightStep` perturbs weights (P-RGE, arXiv 2409.15520). A copy is the whole batch under a perturbed adapter, so
  every row stands there ``2q`` times.
* `ActivationStep` perturbs activations (activity perturbation, arXiv 2210.03310). A copy is only the tokens at the
  target positions, with the adapters' outputs there perturbed. The tokens before them, which all copies see, run once.

The last two are estimates. They use forward passes only, and run the perturbed copies as one batch through one set of
frozen weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from prge.manifest import ESTIMATES, AdaptedModule, Gradient, TrainedHead
from prge.models.backbone import Backbone
from prge.models.noise import Noise
from prge.models.objective import LabelWords, LanguageModel
from prge.models.optimizer import SLOTS, Optimizer


@dataclass(frozen=True)
class StepConfig:
    """The step's shape, which is fixed at export.

    Attributes:
        queries: q, random directions per step (with perturbed activations, per target of an example); 1 for a gradient
            that is no estimate and has none.
        batch: B, examples per step.
        gradient: how the gradient is had.
        optimizer: the update rule.
        outer: whether all q queries run in one execution; else one per execution, and the host runs q of them.
        inner: whether +eps and -eps run in one execution; else one of them, and the host runs both. Outer or inner
            can only be off for perturbed weights with SGD, whose updates add up.
        noise: distribution of the directions.

    Raises:
        ValueError: queries or batch below 1, queries where there are none, or outer or inner off where they cannot be.
    """

    queries: int = 16
    batch: int = 16
    gradient: Gradient = "activations"
    optimizer: Optimizer = "adam"
    outer: bool = True
    inner: bool = True
    noise: Noise = "rademacher"

    def __post_init__(self) -> None:
        for field in ("queries", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if not self.estimates and self.queries != 1:
            raise ValueError(
                f"the {self.gradient} gradient needs no random directions; leave out the {self.queries} queries"
            )
        if not (self.outer and self.inner) and (self.gradient, self.optimizer) != ("weights", "sgd"):
            raise ValueError("loops on the host (outer or inner off) need perturbed weights and the sgd optimizer")

    @property
    def estimates(self) -> bool:
        """Whether the gradient is an estimate, from perturbed copies."""
        return self.gradient in ESTIMATES

    @property
    def parallel_queries(self) -> int:
        """Queries in one execution."""
        return self.queries if self.outer else 1

    @property
    def copies(self) -> int:
        """Copies of every row in one execution; 1 where no whole rows are copied."""
        if self.gradient != "weights":
            return 1
        return self.parallel_queries * (2 if self.inner else 1)

    @property
    def rows(self) -> int:
        """R, rows of one execution."""
        return self.copies * self.batch


class Step(nn.Module):
    """What both estimators share. `forward` is what is traced and lowered.

    Attributes:
        backbone: the model without its head.
        objective: the head, and the loss at the target positions.
        trained: the adapted linears, in state order.
        cores: all that trains, in state order: these, and the head's rows where they do.
        size: S, how many parameters that is.
        config: the step's shape.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: LabelWords | LanguageModel,
        trained: Sequence[AdaptedModule],
        config: StepConfig,
    ):
        super().__init__()
        self.backbone, self.objective, self.trained, self.config = backbone, objective, tuple(trained), config
        head = [objective.trained] if objective.trained else []
        self.cores: tuple[AdaptedModule | TrainedHead, ...] = (*self.trained, *head)
        self.size = sum(core.size for core in self.cores)

    @property
    def state_size(self) -> int:
        """Numbers in the state: the parameters, and the optimizer's slots behind them."""
        return self.size * (1 + SLOTS[self.config.optimizer])

    def forward(
        self, state: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Take one step.

        Args:
            state: f32[state_size], parameters first.
            hidden: f32[R, T, H], what `Backbone.frozen` makes of the tokens; any finite numbers at the padding.
            tokens: i64[R, T], padded on the right.
            targets: the objective's inputs for the same rows, target positions first.
            seed: i64[1]; query i draws its direction from ``seed + i``.
            lr: f32[1], the learning rate.
            eps: f32[1], the perturbation's size. With 0 the losses are those of the state as it is, and the new state
                is to be thrown away: it is not finite.

        Returns:
            the new state f32[state_size], losses f32[R], and the objective's detail.
        """
        raise NotImplementedError
