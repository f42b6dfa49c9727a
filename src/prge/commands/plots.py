"""A picture of one result: made off screen, written as a PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def picture(path: Path) -> Iterator[Any]:
    """Yield the axes to draw on; ``path`` is written when the block ends well.

    matplotlib is imported here, so that only commands that draw pay for it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    try:
        yield axis
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)
