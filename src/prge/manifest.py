"""What a program says about itself: the JSON that its ``manifest`` method returns.

The only thing that the export side and the driver share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Literal

from prge.errors import UserError
from prge.files.typed import parse, parse_json

# Where a label's word is predicted: at the last token, the mask, or the first token.
AnswerAt = Literal["last", "mask", "first"]

FORMAT = "prge"
VERSION = 1

PROGRAM_FILE = "program.pte"
GENERATE_FILE = "generate.pte"
TOKENIZER_FILE = "tokenizer.json"
INITIAL_FILE = "initial.safetensors"

# Sizes and tokens stay below, as the runtime's do.
_LARGEST = 2**31


@dataclass(frozen=True)
class Label:
    """A class: its name in the data, its label word, and that word's vocabulary index."""

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
class Adapter:
    """What trains.

    Attributes:
        task_type: PEFT's name of what the model is for.
        fan_in_fan_out: whether the checkpoint's weights are [in, out].
        sha256: of all the other fields and the frozen factors (`digest`); empty before there are factors.
    """

    rank: int
    alpha: float
    subspace: Literal["fisher", "svd", "peft"] | None
    modules: tuple[AdaptedModule, ...]
    task_type: str | None = "CAUSAL_LM"
    fan_in_fan_out: bool = False
    sha256: str = ""

    def digest(self, factors: bytes) -> str:
        """Hex digest of the layout and the frozen factors: which states fit."""
        # A whole alpha is written as it comes, 8, and read as 8.0.
        layout = replace(self, alpha=float(self.alpha), sha256="")
        return hashlib.sha256(json.dumps(asdict(layout)).encode() + factors).hexdigest()


@dataclass(frozen=True)
class Architecture:
    """The frozen decoder's sizes.

    Attributes:
        layer_weights, layer_outputs: numbers in one layer's linears, and their outputs in all.
        head: of one attention head.
        tied: whether the LM head is the embedding's table.
        transform: numbers in the linears between the last layer and the head.
        learned_positions: whether every position of a row has a learned vector.
    """

    layers: int
    hidden: int
    heads: int
    head: int
    layer_weights: int
    layer_outputs: int
    vocabulary: int
    tied: bool
    transform: int = 0
    learned_positions: bool = False


@dataclass(frozen=True)
class Manifest:
    """All that a driver needs to know.

    Attributes:
        model: where the checkpoint came from.
        model_sha256: of its parameters (`Checkpoint.digest`).
        quantization: ``"f32"``, ``"8da8w"`` or ``"8da4w"``.
        queries, batch, outer, inner, noise, perturb, optimizer: the step's shape (`StepConfig`).
        betas: decay of the optimizer's means, for the correction of the first steps in lr.
        min_tokens, max_tokens: bounds of T; equal in a program of fixed length.
        state_size: of the state: the parameters, and behind them the optimizer's slots.
        objective: ``"label-words"`` or ``"language-modelling"``.
        template: the prompt, with the data's column names in braces.
        labels: the classes (label words only).
        label_column: where the data names the class (label words only).
        answer_at: the token at which the label is predicted: "last", "mask" or "first" (label words only).
        mask_token: of an encoder that predicts at it; ``{mask}`` in the template.
        target: the template of the target text (language modelling only).
        choices: the data's column of candidates for ``{choice}``, among which evaluation chooses; else empty.
        chat_template, special_tokens: the tokenizer's, for chat messages and generation; else empty.
        task: its name in `prge.examples.tasks`, or empty.
        max_targets: M, the most target tokens of an example (language modelling only).
        tokenizer_sha256: of the tokenizer file's bytes.
        pad_token: fills rows on the right.
        eps, lr: what `prge train` uses unless told otherwise.
        adapter: what trains.
        architecture: what it trains on.
        kind: ``"step"``, or ``"generate"`` for the program that continues text with a state of the step.
        stop_tokens: what ends a text (generate only). Its ``max_tokens`` bounds prompt and continuation together.
        chunk: most tokens of one execution (generate only).
    """

    model: str
    model_sha256: str
    quantization: Literal["f32", "8da8w", "8da4w"]
    queries: int
    batch: int
    outer: bool
    inner: bool
    noise: Literal["rademacher", "gaussian"]
    perturb: Literal["activations", "weights"]
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
    kind: Literal["step", "generate"] = "step"
    stop_tokens: tuple[int, ...] = ()
    chunk: int = 0
    format: str = field(default=FORMAT)
    version: int = field(default=VERSION)

    @property
    def parameters(self) -> int:
        """How many numbers train; they stand first in the state."""
        return sum(module.core[0] * module.core[1] for module in self.adapter.modules)

    @property
    def identity(self) -> dict[str, str]:
        """What a state or an adapter carries as metadata: its base, and its layout and frozen factors."""
        return {"base": self.model, "base_sha256": self.model_sha256, "adapter_sha256": self.adapter.sha256}

    @property
    def copies(self) -> int:
        """Copies of every row in one execution."""
        if self.perturb == "activations":
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
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse and check; ``where`` names the file in messages.

        Raises:
            UserError: not a prge manifest, of a newer version, or with missing or odd fields.
        """
        try:
            data = parse_json(text)
            if data["format"] != FORMAT:
                raise KeyError("format")
            version = int(data["version"])
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise UserError(f"{where} is not a program made by prge: its manifest cannot be read ({e})") from e
        if version > VERSION:
            raise UserError(
                f"{where} has manifest version {version}; this prge reads up to {VERSION}: "
                "upgrade prge, or export the program again"
            )
        try:
            manifest = parse(cls, data)
            manifest._check()
        except ValueError as e:
            raise UserError(
                f"{where} has a manifest with missing, unknown or odd fields ({e}): it is damaged, or another version "
                "of prge made it; export it again"
            ) from e
        return manifest

    def _check(self) -> None:
        """Raise a ValueError naming the field that is out of range, or contradicts the others."""
        a, offset = self.adapter, 0
        sizes = {"queries": self.queries, "batch": self.batch, "rank": a.rank, "layers": self.architecture.layers}
        sizes |= {"chunk": self.chunk} if self.kind == "generate" else {}
        sizes |= {"max_targets": self.max_targets} if self.objective == "language-modelling" else {}
        above = {"eps": self.eps, "lr": self.lr, "alpha": a.alpha}
        tokens = [self.pad_token, self.mask_token or 0, *self.stop_tokens, *(label.token for label in self.labels)]
        names = {label.name for label in self.labels}
        checks = [(name, 1 <= value < _LARGEST) for name, value in sizes.items()]
        checks += [(name, value > 0) for name, value in above.items()]
        checks += [
            ("betas", all(0 <= beta < 1 for beta in self.betas)),
            ("a token", all(0 <= token < _LARGEST for token in tokens)),
            ("min_tokens or max_tokens", 1 <= self.min_tokens <= self.max_tokens < _LARGEST),
            ("labels", len(names) >= 2 if self.objective == "label-words" else not names),
            ("mask_token", self.mask_token is not None or self.answer_at != "mask"),
        ]
        for module in a.modules:
            features, width = (module.in_features, module.out_features), module.core[1] if a.subspace else None
            core = (a.rank, width or module.out_features)
            right = min(*features, *core) >= 1 and (module.core, module.offset) == (core, offset)
            checks.append((module.name, right))
            offset += core[0] * core[1]
        checks.append(("state_size", 0 < offset < _LARGEST and self.state_size in (offset, 2 * offset, 3 * offset)))
        for name, right in checks:
            if not right:
                raise ValueError(f"{name} out of range")


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def answer_position(tokens: Sequence[int], answer_at: str, mask_token: int | None, where: str) -> int:
    """Index of the token whose hidden state predicts the label; a UserError when there is no such mask token."""
    if answer_at != "mask":
        return 0 if answer_at == "first" else len(tokens) - 1
    if list(tokens).count(mask_token or 0) != 1:
        raise UserError(
            f"{where}: the row holds the mask token {list(tokens).count(mask_token or 0)} times, not once; "
            "the text holds one itself, or it is too long and its mask was cut off"
        )
    return list(tokens).index(mask_token or 0)


def cut_left(tokens: Sequence[int], bound: int, answer_at: str) -> tuple[int, ...]:
    """The last ``bound`` tokens; an encoder's first one, which opens every row, stays."""
    if len(tokens) <= bound or answer_at == "last":
        return tuple(tokens[-bound:])
    return (tokens[0], *tokens[len(tokens) - bound + 1 :])


def template_columns(template: str) -> list[str]:
    """Column names in a template, where ``{mask}`` is none; a UserError if it cannot be used."""
    try:
        fields = [field[1:] for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as e:
        raise UserError(f"template {template!r}: {e}") from e
    # A format or conversion, as in '{text:>9}', would be a second way to change the text, and can ask for gigabytes.
    if any(not (name or "").isidentifier() or form or conversion for name, form, conversion in fields):
        raise UserError(f"template {template!r}: write column names in braces, as '{{text}}'")
    return [str(name) for name, _, _ in fields if name != "mask"]
