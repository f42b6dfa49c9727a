"""Pictures of results, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prge.quiet import quiet
from prge.runtime_driver.loop.calibrate import Calibration
from prge.runtime_driver.loop.train import RunningMean
from prge.runtime_driver.run.journal import number


@contextmanager
def picture(path: Path, panels: int = 1, height: float = 4.5) -> Iterator[Any]:
    """Yield the axes to draw on, a list of them for several panels; ``path`` is written when the block ends well.

    matplotlib is imported here, so that only commands that draw pay for it.
    """
    with quiet():  # it tells of homes that it cannot write
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

    figure, axis = pyplot.subplots(1, panels, figsize=(8 * panels, height), layout="constrained")
    try:
        yield axis
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def running_mean(values: Sequence[float | None]) -> list[float]:
    """`RunningMean` after each of some losses; None for one that was not finite."""
    mean = RunningMean()
    return [mean.add(number(value)) for value in values]


def plot_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A PNG of training loss (each step and a running mean), dev loss, and dev accuracy."""
    with picture(path) as axis:
        steps, losses = [row["step"] + 1 for row in rows], [row["loss"] for row in rows]
        axis.plot(steps, [number(loss) for loss in losses], color="tab:blue", alpha=0.25, linewidth=0.8)
        axis.plot(steps, running_mean(losses), color="tab:blue", label="training loss")
        axis.set(xlabel="step", ylabel="loss")
        points = [(0, row["before"]) for row in rows if "before" in row]
        points += [(row["step"] + 1, row["dev"]) for row in rows if "dev" in row]
        if points:
            axis.plot([s for s, _ in points], [e["loss"] for _, e in points], "o--", color="tab:cyan", label="dev loss")
        accuracies = [(s, e["accuracy"]) for s, e in points if "accuracy" in e]
        if accuracies:
            right = axis.twinx()
            right.plot(*zip(*accuracies, strict=True), "s-", color="tab:orange")
            right.set_ylabel("dev accuracy", color="tab:orange")
            right.set_ylim(0, 1)
        axis.legend(loc="center right")


def plot_calibration(path: Path, found: Calibration) -> None:
    """A PNG of the estimate's correlation with the exact one over eps, and of the line search for lr."""
    with picture(path) as axis:
        axis.semilogx(*zip(*found.by_eps, strict=True), "o-", color="tab:blue")
        axis.axvline(found.eps, color="tab:blue", linestyle=":")
        axis.set(xlabel="eps (blue), way along the first direction (orange)", ylim=(0, 1.02))
        axis.set_ylabel("correlation with the exact estimate", color="tab:blue")
        right = axis.twinx()
        right.plot(*zip(*found.along, strict=True), "s-", color="tab:orange")
        right.set_ylabel("loss", color="tab:orange")


def plot_runs(path: Path, journals: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """A PNG of the training losses' running means, and of the dev losses, dashed in the same colour."""
    with picture(path) as axis:
        for i, (name, log) in enumerate(journals.items()):
            steps = [row["step"] + 1 for row in log]
            axis.plot(steps, running_mean([row["loss"] for row in log]), color=f"C{i}", label=name)
            dev = [row for row in log if "dev" in row]
            if dev:
                at, losses = [row["step"] + 1 for row in dev], [row["dev"]["loss"] for row in dev]
                axis.plot(at, losses, "o--", color=f"C{i}", label=f"{name}, dev")
        axis.set(xlabel="step", ylabel="loss")
        axis.legend()


def plot_rounds(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A PNG of a federation's rounds: the dev set's accuracy, or without one the loss, over rounds and over bytes."""
    points, total = [], 0
    for row in rows:
        if "before" in row:
            points.append((0, 0, row["before"]))
        total += row["bytes_up"] + row["bytes_down"]
        points.append((row["round"], total, row.get("dev", {"loss": row.get("loss")})))
    name = "accuracy" if all("accuracy" in numbers for _, _, numbers in points) else "loss"
    values = [number(numbers[name]) for _, _, numbers in points]
    with picture(path, 2) as (left, right):
        left.plot([round_ for round_, _, _ in points], values, "o-")
        left.set(xlabel="round", ylabel=f"dev {name}" if rows and "dev" in rows[0] else f"training {name}")
        right.plot([sent / 1e6 for _, sent, _ in points], values, "o-")
        right.set(xlabel="MB that all devices sent and got")
