"""The `prge` command. Every command speaks to a person, or with --json to a program."""

from __future__ import annotations

import os
import sys

import typer

from prge.cli import tables
from prge.cli.bench import bench
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
from prge.commands.replay import replay_run
from prge.commands.verify import verify
from prge.errors import UserError

app = typer.Typer(
    help="Export language models that fine-tune themselves on the ExecuTorch runtime, and drive them.",
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
app.command()(command(compare, render=tables.compared))
app.command()(command(verify, "Verified"))
app.command()(forget)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; a user's mistake becomes one sentence and exit code 1."""
    _in_utf8()
    screen.take_any_letter()
    try:
        app()
    except UserError as e:
        message = str(e).encode(errors="backslashreplace").decode()  # names of files may be no text
    except ModuleNotFoundError as e:
        if e.name not in ("transformers", "torchao", "peft", "gguf", "accelerate"):
            raise
        message = f"this command needs {e.name}: pip install 'prge[export]' (a device needs only the other commands)"
    except (OSError, MemoryError) as e:  # of the machine; what a command knows to say better is a UserError already
        message = f"{getattr(e, 'filename', None) or 'the system'}: {getattr(e, 'strerror', None) or type(e).__name__}"
    if "--json" in sys.argv:
        screen.print_json({"error": message})
    screen.err.print("error:", style="bold red", end=" ")
    screen.err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale is of another encoding: words and paths are of UTF-8."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
