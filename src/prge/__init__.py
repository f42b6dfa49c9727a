"""prge: language models that fine-tune themselves on the ExecuTorch runtime, forward passes only.

::

    import prge

    program = prge.load("sst2")
    train, dev = program.examples("train.tsv"), program.examples("dev.tsv")
    for state, record in prge.train(program, train, steps=100):
        print(record.step, record.loss)
    print(prge.evaluate(program, state, dev).accuracy)
    program.save_adapter("adapter", state)

Every name is loaded when it is first asked for, so that a device imports nothing of the server's side. Only `export`
needs it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prge.commands.export import export as export
    from prge.commands.open import load as load
    from prge.errors import UserError as UserError
    from prge.examples.detect import FormOptions as FormOptions
    from prge.runtime_driver.data.batches import collate as collate
    from prge.runtime_driver.data.encoder import Encoder as Encoder
    from prge.runtime_driver.loop.evaluate import evaluate as evaluate
    from prge.runtime_driver.loop.train import TrainConfig as TrainConfig
    from prge.runtime_driver.loop.train import train as train
    from prge.runtime_driver.run.folder import RunFolder as RunFolder

__version__ = "0.1.0"

_PLACES = {
    "export": "prge.commands.export",
    "load": "prge.commands.open",
    "UserError": "prge.errors",
    "FormOptions": "prge.examples.detect",
    "collate": "prge.runtime_driver.data.batches",
    "Encoder": "prge.runtime_driver.data.encoder",
    "evaluate": "prge.runtime_driver.loop.evaluate",
    "TrainConfig": "prge.runtime_driver.loop.train",
    "train": "prge.runtime_driver.loop.train",
    "RunFolder": "prge.runtime_driver.run.folder",
}
__all__ = [*_PLACES, "__version__"]


class _Package(ModuleType):
    """The public names, lazily (PEP 562).

    `prge.export` is the function. Its folder's modules are imported by their whole names, as
    ``from prge.export.program import export_program``; Python would then set the folder in the function's place.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'prge' has no attribute {name!r}")
        value = getattr(import_module(_PLACES[name]), name)
        ModuleType.__setattr__(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "export" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_PLACES})


sys.modules[__name__].__class__ = _Package
