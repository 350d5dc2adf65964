"""The ``ntdh-bench`` command: one help page, commands imported only when they are called."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unicodedata import normalize

from ntdh_bench import __version__
from ntdh_bench.errors import UserError, one_line
from ntdh_bench.startup import import_once
from ntdh_bench.stopping import Stopped
from ntdh_bench.suggestions import did_you_mean


class Command(NamedTuple):
    """A command: its line of help, and where its ``main(argv)`` is."""

    help: str
    module: str


COMMANDS = {
    "fit": Command("train the teacher if need be, distil the student, test it", "run"),
    "validate": Command("measure a checkpoint on validation data", "run"),
    "test": Command("measure a checkpoint on test data", "run"),
    "predict": Command("write a checkpoint's predictions on test data", "run"),
    "export": Command("write a trained network to a file for other programs", "export"),
    "saliency": Command("Algorithm 1 alone: which teacher features diverge, with plots", "run"),
    "sweep": Command("run an experiment's whole grid, resuming what is done", "sweep"),
    "tables": Command("tables, figures, claims and the page from the records", "tables"),
    "show": Command("one page of a run: result, curves, classes, samples, mask", "show"),
    "compare": Command("a table of runs: what differs in settings and results", "compare"),
    "config": Command("list, show or copy the configs that come with the package", "config"),
    "data": Command("list, prepare, verify or simulate data sets", "data"),
    "cache": Command("list or prune what earlier runs left to be used again", "cache"),
    "doctor": Command("what is installed and found here, and what of it a run lacks", "doctor"),
    "completion": Command("print a script that completes all this in a shell", "completion"),
}

HELP = f"""\
usage: ntdh-bench COMMAND [OPTIONS]

Benchmarks of cross-modal knowledge distillation under the Non-target Divergence Hypothesis.

commands:
{chr(10).join(f"  {name:<11}{command.help}" for name, command in COMMANDS.items())}

examples:
  ntdh-bench fit --config configs/quickstart.yaml
  ntdh-bench fit --config mnist_dkd --data.source simulated
  ntdh-bench fit --config mnist_dkd --config overlays/feature_mask --mask.ratio 0.5
  ntdh-bench test --ckpt_path runs/.../checkpoints/last.ckpt

`ntdh-bench COMMAND --help` lists the options of a command, `ntdh-bench --version` the version.
"""


# For terminals without them; what has no entry loses its accents, or becomes a question mark.
_PLAIN = {
    "→": "->",
    "–": "-",
    "—": "-",
    "−": "-",
    "±": "+-",
    "×": "x",
    "·": "*",
    "≥": ">=",
    "≤": "<=",
    "…": "...",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``ntdh-bench``; default: those of this process.

    Returns:
        The exit status: 0, 1 if the command failed, 2 if it was misspelt.
    """
    print_anywhere()
    if "" not in sys.path:  # a user's classes, as with `python -m`, but after what is installed
        sys.path.append("")
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, at a TAB
        modules = {name: command.module for name, command in COMMANDS.items()}
        import_once("ntdh_bench.commands.completion").complete(modules)
        return 0
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(f"ntdh-bench {__version__}")
        return 0
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS)
        return _fail(f"unknown command {words[0]!r}: {hint}choose one of {', '.join(COMMANDS)}", 2)
    try:
        module = import_once(f"ntdh_bench.commands.{COMMANDS[words[0]].module}")
        run: Callable[[list[str]], int] = module.main
        status = run(words)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        if _is_read():
            raise
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which Path.is_file raises, unlike all others
            raise
        return _fail(one_line(f"{error.filename}: {error.strerror}; give a shorter one"), 1)
    except Stopped as stop:
        first = os.environ.get("LOCAL_RANK", "0") == "0"  # the others say the same
        return _fail(str(stop), stop.status) if first else stop.status
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _is_read() -> bool:
    """Return whether someone takes the output; if not, as `head` when it has enough, drop it."""
    output = sys.stdout.fileno()
    pipe = select.poll()
    pipe.register(output, 0)
    closed = any(state & (select.POLLERR | select.POLLHUP) for _, state in pipe.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return not closed


def print_anywhere() -> None:
    """Let characters that a terminal does not know degrade where they would end the program."""
    codecs.register_error("degrade", _degraded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="degrade")


def _degraded(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = [
        _PLAIN.get(character) or normalize("NFKD", character).encode("ascii", "ignore").decode()
        for character in error.object[error.start : error.end]
    ]
    return "".join(character or "?" for character in plain), error.end


def _fail(message: str, status: int) -> int:
    rank = os.environ.get("LOCAL_RANK", "0")
    which = "" if rank == "0" else f" in process {rank}"
    print(f"ntdh-bench: error{which}: {message}", file=sys.stderr)
    return status
