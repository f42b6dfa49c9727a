"""The `prge` command. Every command speaks to a person, or with --json to a program."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from prge.cli import tables
from prge.cli.bench import bench
from prge.cli.federated import federated
from prge.cli.forget import forget
from prge.cli.generate import generate
from prge.cli.options import command
from prge.cli.train import train
from prge.commands import screen
from prge.commands.build_runner import build_runner
from prge.commands.calibrate import calibrate
from prge.commands.compare import compare
from prge.commands.data import look_at
from prge.commands.demo import demo
from prge.commands.evaluate import evaluate_file, predict
from prge.commands.export import export
from prge.commands.inspect import inspect, tasks
from prge.commands.merge import merge
from prge.commands.pack import pack
from prge.commands.plan import plan
from prge.commands.push import push
from prge.commands.replay import replay_run
from prge.commands.verify import verify
from prge.errors import UserError

_DEBUG = "--debug"
_OF_EXPORT = ("transformers", "torchao", "peft", "gguf", "accelerate", "huggingface_hub")

app = typer.Typer(
    help="Export language models that fine-tune themselves on the ExecuTorch runtime, and drive them.",
    epilog=f"Every command takes {_DEBUG}, which shows where an error comes from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(command(export, "Exported"))
app.command()(command(plan, render=tables.planned))
app.command("data")(command(look_at, render=tables.looked_at))
app.command()(train)
app.command("replay")(command(replay_run, "Replayed"))
app.command()(command(pack, "Packed"))
app.command()(command(build_runner, "Built"))
app.command()(command(calibrate, "Calibrated"))
app.command("eval")(command(evaluate_file, "Evaluated"))
app.command()(command(predict, render=tables.predicted))
app.command()(command(tasks, render=tables.tasks))
app.command()(command(inspect, render=tables.inspected))
app.command()(command(demo, "Demo"))
app.command()(generate)
app.command()(command(merge, "Merged"))
app.command()(command(push, "Pushed"))
app.command()(command(compare, render=tables.compared))
app.command()(command(verify, "Verified"))
app.command()(forget)
app.add_typer(federated, name="federated")
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; whatever goes wrong becomes one sentence and exit code 1. --debug shows a traceback too."""
    _in_utf8()
    screen.take_any_letter()
    debug = _DEBUG in sys.argv
    sys.argv = [word for word in sys.argv if word != _DEBUG]
    try:
        app()
    except Exception as e:
        message = _sentence(e)
        if debug:
            traceback.print_exc()
    if "--json" in sys.argv:
        screen.print_json({"error": message})
    screen.err.print("error:", style="bold red", end=" ")
    screen.err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _sentence(error: Exception) -> str:
    """What went wrong."""
    if isinstance(error, UserError):
        return str(error).encode(errors="backslashreplace").decode()  # names of files may be no text
    if isinstance(error, ModuleNotFoundError) and error.name in _OF_EXPORT:
        return f"this command needs {error.name}: pip install 'prge[export]' (a device needs only the other commands)"
    if isinstance(error, OSError | MemoryError):  # of the machine; what a command knows to say better is a UserError
        named = getattr(error, "filename", None) or "the system"
        return f"{named}: {getattr(error, 'strerror', None) or type(error).__name__}"
    said = " ".join(str(error).split())[:300] or "it says no more"
    return f"{_library(error)} raised {type(error).__name__}: {said}; the same command with {_DEBUG} shows where"


def _library(error: Exception) -> str:
    """The package whose code raised an exception: the first below prge's own."""
    packages = [str(f.f_globals.get("__name__")).partition(".")[0] for f, _ in traceback.walk_tb(error.__traceback__)]
    own = max((i for i, name in enumerate(packages) if name == "prge"), default=-1)
    return next(iter(packages[own + 1 :]), "prge")


def _in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale is of another encoding: words and paths are of UTF-8."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
