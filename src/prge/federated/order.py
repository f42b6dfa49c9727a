"""What the server's message says beside the parameters: which steps a device is to make, of which program."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import ConfigRecord

from prge.errors import UserError
from prge.files.seal import seal_of
from prge.files.typed import parse
from prge.runtime_driver.program.step import StepProgram

# Names of the records and of the arrays in a message. docs/federated.md has its bytes.
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
PARAMETERS, SLOPES = "parameters", "slopes"
EXAMPLES = "num-examples"


@dataclass(frozen=True)
class Order:
    """A round's work, as all devices of the round are told it.

    Attributes:
        program: hex SHA-256 of the program, as it is sealed with.
        base: what the program's frozen weights came from.
        round: its number, from 1.
        first: steps of the earlier rounds.
        steps: to make now.
        total: steps of all rounds; lr falls to zero there.
        lr: of step 0.
        eps: size of the perturbation.
        seed: of the batches and the directions.
        since: slopes alone: rounds before the first one that the message holds.
    """

    program: str
    base: str
    round: int
    first: int
    steps: int
    total: int
    lr: float
    eps: float
    seed: int
    since: int = 0

    def record(self) -> ConfigRecord:
        """As it travels."""
        return ConfigRecord(asdict(self))

    @classmethod
    def read(cls, record: ConfigRecord) -> Order:
        """Raises: UserError, a field is missing or of another type."""
        values: dict[str, Any] = dict(record)
        try:
            return parse(cls, {name: values.get(name) for name in cls.__dataclass_fields__})
        except ValueError as e:
            raise UserError(f"the server's message is not of this app's form: {e}; is its prge as new as here?") from e

    def check(self, program: StepProgram) -> None:
        """Raises: UserError, the device has another program or base; both are named."""
        mine = identity(program)
        if (self.program, self.base) != mine:
            raise UserError(
                f"this device has program {mine[0][:8]} of {mine[1]}, and the server teaches program "
                f"{self.program[:8]} of {self.base}; copy the server's program here"
            )

    def lr_at(self, step: int) -> float:
        """The lr of a step of this round, from 0, before the correction of the optimizer's means."""
        return self.lr * (1.0 - (self.first + step) / self.total)

    def seed_at(self, step: int, queries: int) -> int:
        """The seed of a step's directions. All devices have the same, and no two steps of a federation."""
        return (self.seed << 32) + (self.first + step) * queries


def identity(program: StepProgram) -> tuple[str, str]:
    """A program's seal, and its base model with the digest of its weights."""
    m = program.manifest
    return str(seal_of(program.path)), f"{m.model} ({m.model_sha256[:8]})"
