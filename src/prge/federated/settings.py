"""A federation's settings, as Flower hands them to server and devices: ``[tool.flwr.app.config]`` in pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from prge.errors import UserError
from prge.files.typed import parse

Strategy = Literal["fedavg", "fedadam", "trimmed-mean", "krum"]
Privacy = Literal["none", "central", "local", "secure"]


@dataclass(frozen=True)
class Settings:
    """What a federation does.

    Attributes:
        program: the program's folder; a device may have it elsewhere and say so by ``--node-config``.
        data: a device's examples; in a simulation one file, which is shared out.
        dev: the server's examples to evaluate on; empty for none.
        output: the server's folder.
        truncate: whether long texts are cut from the left instead of refused.
        split: how a simulation shares the examples out: ``even``, or ``dirichlet-A`` with a concentration A.
        rounds: how many there are.
        steps: of a device in a round.
        lr: of the first step; it falls linearly to zero at the end of the last round.
        eps: size of the perturbation; 0 for the program's.
        seed: of batches and directions.
        devices: how many must be there before a round begins.
        fraction: share of the connected devices that train in a round.
        evaluating: share of them that evaluate the adapter after it.
        strategy: how their answers become one.
        server_lr: the step of FedAdam's on the server.
        outliers: the share of wrong answers that ``trimmed-mean`` and ``krum`` expect.
        privacy: what hides a device's part: ``central``, the server's noise; ``local``, the device's own; ``secure``,
            that the server learns the sum alone.
        clip: most that a device's part may move the parameters, with privacy (L2 norm).
        noise: standard deviation of the central noise over ``clip``.
        epsilon, delta: budget of the local noise, for each round.
        timeout: seconds that a round waits for answers.
    """

    program: str
    data: str
    dev: str
    output: str
    truncate: bool
    split: str
    rounds: int
    steps: int
    lr: float
    eps: float
    seed: int
    devices: int
    fraction: float
    evaluating: float
    strategy: Strategy
    server_lr: float
    outliers: float
    privacy: Privacy
    clip: float
    noise: float
    epsilon: float
    delta: float
    timeout: float

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """Check the settings that a run of Flower was given.

        Raises:
            UserError: one is missing, unknown, of another type or out of its bounds.
        """
        where = "[tool.flwr.app.config]"
        floats = {f.name for f in fields(cls) if f.type == "float"}  # TOML's 1 is Flower's int
        named = {name.replace("-", "_"): value for name, value in config.items()}
        try:
            found = parse(cls, {k: float(v) if k in floats and type(v) is int else v for k, v in named.items()})
        except ValueError as e:
            raise UserError(f"{where}: {e}") from e
        for name, (least, most) in _BOUNDS.items():
            value = getattr(found, name)
            if not least <= value <= most:
                raise UserError(f"{where}: {name.replace('_', '-')} = {value}: give {least:g} to {most:g}")
        dirichlet(found.split)
        if not found.lr > 0:
            raise UserError(f"{where}: lr = {found.lr}: give a number above zero")
        return found

    @property
    def described(self) -> dict[str, Any]:
        """The settings that make a federation what it is; the others may change when it goes on."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}


def dirichlet(split: str) -> float | None:
    """The concentration of a split; None for an even one.

    Raises:
        UserError: it is neither ``even`` nor ``dirichlet-`` and a number above zero.
    """
    kind, _, number = split.partition("-")
    try:
        concentration = float(number) if kind == "dirichlet" else 0.0
    except ValueError:
        concentration = 0.0
    if split != "even" and not 0 < concentration < float("inf"):
        raise UserError(f"split = {split!r}: write even, or dirichlet-0.3")
    return concentration or None


_BOUNDS: dict[str, tuple[float, float]] = {
    "rounds": (1, 1e6), "steps": (1, 1e4), "lr": (0, 1e3), "eps": (0, 1e3), "seed": (0, 2**31 - 1),
    "devices": (1, 1e6), "fraction": (0.001, 1), "evaluating": (0, 1), "server_lr": (0, 1e3), "outliers": (0, 0.49),
    "clip": (0, 1e9), "noise": (0, 1e6), "epsilon": (0, 1e6), "delta": (0, 1), "timeout": (1, 1e7),
}  # fmt: skip
# Where things are, and whom the server waits for.
_MAY_CHANGE = ("program", "data", "dev", "output", "devices", "fraction", "evaluating", "timeout")
