"""What a program says about itself: the JSON text that its ``manifest`` method returns.

It is all that the exporter tells the drivers.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from prge.errors import UserError
from prge.files.typed import parse, parse_json

# The token at which a label's word is predicted.
AnswerAt = Literal["last", "mask", "first"]
# Of the frozen weights: float32, int8, or int4 in groups of 32, 64 or 128 that share a scale.
Quantization = Literal["f32", "8da8w", "8da4w", "8da4w-64", "8da4w-128"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

# How a step has its gradient (`prge.models.step`).
Gradient = Literal["full", "exact", "activations", "weights"]
# Those that are estimates, from perturbed copies.
ESTIMATES = ("activations", "weights")

FORMAT = "prge"
# What is written, and the oldest that is read.
VERSION, OLDEST = 5, 4

PROGRAM_FILE = "program.pte"
FROZEN_FILE = "frozen.pte"
GENERATE_FILE = "generate.pte"
TOKENIZER_FILE = "tokenizer.json"
CHAT_FILE = "chat.json"
INITIAL_FILE = "initial.safetensors"

# Sizes and tokens are below this bound, as those of the runtime are.
_LARGEST = 2**31


@dataclass(frozen=True)
class Label:
    """A class.

    Attributes:
        name: as the data has it.
        word: the label word that stands for it.
        token: the word's vocabulary index; of a plain encoder, the label's row in its head.
    """

    name: str
    word: str
    token: int


@dataclass(frozen=True)
class AdaptedModule:
    """An adapted linear: its sizes, and its place in the state and in the vector of frozen factors.

    Its trainable core is ``state[offset : offset + size]``, row-major. The frozen factors of all modules follow each
    other in the order of the modules: A [rank, in_features] of each, and in a subspace behind it D
    [out_features, core[1]].

    Attributes:
        name: the linear's full name in the checkpoint.
        layer: the index of its decoder layer.
        in_features, out_features: the linear's inputs and outputs.
        offset: index of the core's first number.
        core: shape of the core, (rank, columns).
    """

    name: str
    layer: int
    in_features: int
    out_features: int
    offset: int
    core: tuple[int, int]

    @property
    def size(self) -> int:
        """Numbers in the core."""
        return self.core[0] * self.core[1]


@dataclass(frozen=True)
class TrainedHead:
    """The rows of the K label words in the head, which train beside the adapted linears.

    Their core stands behind the modules', ``state[offset : offset + H K]``, [H, K] and row-major. ``gain`` times its
    transpose is added to the rows. As a LoRA pair that is A [K, H], the core's transpose, and B [out_features, K],
    which is zero but for ``gain`` in the row of each word. So no frozen factors are stored.

    Attributes:
        name: the head's full name in the checkpoint.
        out_features: the head's outputs.
        offset: index of the core's first number.
        core: its shape, (H, K).
        gain: a power of two, by the size of the head's inputs: how fast the head learns beside the modules.
    """

    name: str
    out_features: int
    offset: int
    core: tuple[int, int]
    gain: float

    @property
    def size(self) -> int:
        """Numbers in the core."""
        return self.core[0] * self.core[1]


@dataclass(frozen=True)
class Adapter:
    """What trains.

    Attributes:
        rank: LoRA's r.
        alpha: LoRA's alpha; the pairs are scaled by ``alpha / rank``.
        subspace: where the cores train; None for the whole B of LoRA-FA.
        modules: the adapted linears, in state order.
        head: the label words' rows of the head; None where they stay as they are.
        task_type: PEFT's name of what the model is for; None where it has none.
        fan_in_fan_out: whether the checkpoint's weights are [in, out], as GPT-2's are.
        sha256: hex digest of the other fields and the frozen factors (`digest`); empty before there are factors.
    """

    rank: int
    alpha: float
    subspace: Literal["fisher", "svd", "peft"] | None
    modules: tuple[AdaptedModule, ...]
    task_type: str | None = "CAUSAL_LM"
    fan_in_fan_out: bool = False
    sha256: str = ""
    head: TrainedHead | None = None

    def digest(self, factors: bytes) -> str:
        """Hex digest of these fields and the frozen factors; a state fits adapters of the same digest."""
        # An alpha of 8 is read again as 8.0, and both must give one digest.
        layout = asdict(replace(self, alpha=float(self.alpha), sha256=""))
        if self.head is None:  # as programs had it before heads could train
            del layout["head"]
        return hashlib.sha256(json.dumps(layout).encode() + factors).hexdigest()

    @property
    def cores(self) -> tuple[AdaptedModule | TrainedHead, ...]:
        """All that trains, in state order."""
        return (*self.modules, *([self.head] if self.head else []))

    @property
    def parameters(self) -> int:
        """S, how many parameters train."""
        return sum(core.size for core in self.cores)


@dataclass(frozen=True)
class Architecture:
    """The frozen model's sizes.

    Attributes:
        layers: how many.
        hidden: H, numbers in a hidden state.
        heads, kv_heads: heads of queries in a layer, and of keys and values.
        head: numbers in a head.
        layer_weights: weights in the linears of one layer.
        layer_outputs: outputs of the linears of one layer, all together.
        vocabulary: tokens of the embedding.
        tied: whether the LM head is the embedding's table.
        transform: weights in the linears between the last layer and the head.
        learned_positions: whether the positions of a row have learned embeddings.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    layer_weights: int
    layer_outputs: int
    vocabulary: int
    tied: bool
    transform: int = 0
    learned_positions: bool = False


@dataclass(frozen=True)
class Manifest:
    """All that a driver needs to know of a program.

    Attributes:
        model: where the checkpoint came from: a preset, path or hub id.
        model_sha256: hex digest of its parameters (`Checkpoint.digest`).
        quantization: how the frozen weights are stored.
        queries, batch, outer, inner, noise, gradient, optimizer: the step's shape, as in `StepConfig`.
        betas: decay of the optimizer's two means. A driver corrects lr for the means' first steps by them.
        min_tokens, max_tokens: bounds of T, tokens of a row; equal in a program of one length.
        state_size: numbers in the state: the parameters, and the optimizer's slots behind them.
        objective: classification by label words, or language modelling.
        template: the prompt, with the data's column names in braces; empty for plain text.
        labels: the classes (label words only).
        label_column: the data's column of label names (label words only).
        answer_at: the token at which the label is predicted: the row's last, the mask, or the first (label words only).
        mask_token: the token that ``{mask}`` in the template becomes, of an encoder that answers there; else None.
        target: the answer's template (language modelling only).
        choices: the data's column of candidate answers, which stand for ``{choice}`` one by one; empty where there are
            none.
        chat_template: the chat's template, in jinja, for chats and for generation; empty where there is none.
        special_tokens: the tokens that the chat's template names.
        task: name of the task in `prge.examples.tasks`; empty for none.
        max_targets: M, most target tokens of an example (language modelling only).
        tokenizer_sha256: hex digest of the tokenizer file.
        pad_token: fills rows on the right.
        eps, lr: what `prge train` uses unless told otherwise.
        adapter: what trains.
        architecture: the frozen model's sizes.
        first_layer: the first layer in the step's program. The layers below it and the embedding give the same hidden
            states at every step, so they are a program of their own, `FROZEN_FILE`.
        frozen_rows: rows of one execution of that program.
        frozen_sha256: hex SHA-256 of that program, as it is sealed with.
        kind: ``"step"``; ``"frozen"``; or ``"generate"`` for the program that continues text with the parameters of a
            step's state. In the last, ``max_tokens`` bounds prompt and continuation together.
        stop_tokens: the tokens that end a text, where text is learned or generated. Learned answers end with one of
            them: the first is added to those that do not.
        chunk: most tokens of one execution (generate only).
        format, version: say that this is a manifest of prge's, and of which version.
    """

    model: str
    model_sha256: str
    quantization: Quantization
    queries: int
    batch: int
    outer: bool
    inner: bool
    noise: Literal["rademacher", "gaussian"]
    gradient: Gradient
    optimizer: Literal["sgd", "momentum", "adam"]
    betas: tuple[float, float]
    min_tokens: int
    max_tokens: int
    state_size: int
    objective: Literal["label-words", "language-modelling"]
    template: str
    tokenizer_sha256: str
    pad_token: int
    eps: float
    lr: float
    adapter: Adapter
    architecture: Architecture
    labels: tuple[Label, ...] = ()
    label_column: str = "label"
    target: str = ""
    max_targets: int = 0
    choices: str = ""
    chat_template: str = ""
    special_tokens: dict[str, str] = field(default_factory=dict)
    task: str = ""
    answer_at: AnswerAt = "last"
    mask_token: int | None = None
    first_layer: int = 0
    frozen_rows: int = 1
    frozen_sha256: str = ""
    kind: Literal["step", "frozen", "generate"] = "step"
    stop_tokens: tuple[int, ...] = ()
    chunk: int = 0
    format: str = field(default=FORMAT)
    version: int = field(default=VERSION)

    @property
    def parameters(self) -> int:
        """S, how many parameters train; they stand first in the state."""
        return self.adapter.parameters

    @property
    def words(self) -> list[int]:
        """The label words' tokens, in the order of the classes."""
        return [label.token for label in self.labels]

    @property
    def identity(self) -> dict[str, str]:
        """Metadata of states and adapters: which base they belong to, and which adapter."""
        return {"base": self.model, "base_sha256": self.model_sha256, "adapter_sha256": self.adapter.sha256}

    @property
    def estimates(self) -> bool:
        """Whether the gradient is an estimate, from perturbed copies."""
        return self.gradient in ESTIMATES

    @property
    def copies(self) -> int:
        """Copies of every row in one execution; 1 where no whole rows are copied."""
        if self.gradient != "weights":
            return 1
        return (self.queries if self.outer else 1) * (2 if self.inner else 1)

    @property
    def rows(self) -> int:
        """R, rows of one execution."""
        return self.copies * self.batch

    @property
    def executions(self) -> int:
        """Executions of one step; more than one where loops run on the host."""
        return (1 if self.outer else self.queries) * (1 if self.inner else 2)

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read a manifest, and check it.

        Args:
            where: names the file in messages.

        Raises:
            UserError: it is no manifest of prge's, of a newer version, or a field is missing, unknown or out of range.
        """
        try:
            data = parse_json(text)
            if data["format"] != FORMAT:
                raise KeyError("format")
            version = int(data["version"])
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise UserError(f"{where} is not a program made by prge: its manifest cannot be read ({e})") from e
        if not OLDEST <= version <= VERSION:
            what = "upgrade prge, or export the program again" if version > VERSION else "export the program again"
            raise UserError(f"{where} has manifest version {version}; this prge reads {VERSION}: {what}")
        try:
            manifest = parse(cls, data)
            if fault := manifest.fault():
                raise ValueError(" ".join(fault))
        except ValueError as e:
            raise UserError(
                f"{where} has a manifest with missing, unknown or odd fields ({e}): it is damaged, or another version "
                "of prge made it; export it again"
            ) from e
        return manifest

    def fault(self) -> tuple[str, str] | None:
        """The first field that is out of range or contradicts the others, and what it must be; None where all fit."""
        a, offset = self.adapter, 0
        sizes = {"queries": self.queries, "batch": self.batch, "rank": a.rank, "layers": self.architecture.layers}
        sizes |= {"chunk": self.chunk} if self.kind == "generate" else {}
        sizes |= {"max_targets": self.max_targets} if self.objective == "language-modelling" else {}
        sizes |= {"frozen_rows": self.frozen_rows, "max_tokens": self.max_tokens, "min_tokens": self.min_tokens}
        for name, size in sizes.items():
            if not 1 <= size < _LARGEST:
                return name, f"must be from 1 to {_LARGEST - 1:,}, not {size:,}"
        for name, value in {"eps": self.eps, "lr": self.lr, "alpha": a.alpha}.items():
            if not 0 < value < math.inf:
                return name, f"must be above zero and finite, not {value}"
        if self.objective == "language-modelling" and self.max_tokens < 2:
            return "max_tokens", f"must be at least 2 where text is learned, not {self.max_tokens}"
        if self.min_tokens > self.max_tokens:
            return "min_tokens", f"must be at most max_tokens ({self.max_tokens:,}), not {self.min_tokens:,}"
        first = min((module.layer for module in a.modules), default=-1)
        if self.first_layer != first:
            return "first_layer", f"must be the first adapted one ({first}), not {self.first_layer}"
        if not all(0 <= beta < 1 for beta in self.betas):
            return "betas", f"must be from 0 to below 1, not {self.betas}"
        tokens = [self.pad_token, self.mask_token or 0, *self.stop_tokens, *(label.token for label in self.labels)]
        if not all(0 <= token < _LARGEST for token in tokens):
            return "a token", f"must be from 0 to {_LARGEST - 1:,}"
        names = {label.name for label in self.labels}
        if (len(names) < 2) if self.objective == "label-words" else names:
            return "labels", "must be two or more with different names, and none for language modelling"
        if self.answer_at == "mask" and self.mask_token is None:
            return "mask_token", "must be given where the model answers at it"
        for module in a.modules:
            columns = module.core[1] if a.subspace else module.out_features
            right = min(module.in_features, module.out_features, columns) >= 1
            if not right or module.core != (a.rank, columns) or module.offset != offset:
                return module.name, "must have sizes, a core and an offset that fit each other"
            offset += module.size
        if a.head:
            shape = (self.architecture.hidden, len(self.labels))
            if (a.head.core, a.head.offset) != (shape, offset) or not 0 < a.head.gain < math.inf or self.estimates:
                return a.head.name, "must have a core, an offset and a gain that fit the label words"
            if not all(label.token < a.head.out_features for label in self.labels):
                return a.head.name, "must have an output for every label word"
            offset += a.head.size
        if not 0 < offset < _LARGEST or self.state_size not in (offset, 2 * offset, 3 * offset):
            return "state_size", f"must be one, two or three times the {offset:,} parameters, not {self.state_size:,}"
        return None
