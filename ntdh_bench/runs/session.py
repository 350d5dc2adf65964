"""Around a run: its processes and folder before it, one clear line if it ends early."""

from __future__ import annotations

import logging
import shlex
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ntdh_bench.cache import is_unwritable, unwritable, write_atomic
from ntdh_bench.errors import UserError
from ntdh_bench.masks import FeatureMask
from ntdh_bench.notices import is_verbose, logged_to, say
from ntdh_bench.parsing.configs import with_absolute_paths
from ntdh_bench.parsing.parser import CONFIG
from ntdh_bench.runs.checkpoint_files import check_run_folder
from ntdh_bench.runs.identity import check_resume, short_name
from ntdh_bench.runs.measuring import check_measured
from ntdh_bench.runs.processes import Processes
from ntdh_bench.runs.run import LOG, Run
from ntdh_bench.stopping import raise_stopped, stoppable

# Lightning's advice that does not apply to data sets held in memory, or is done here.
_ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    ".*callbacks used to create the checkpoint.*",
    ".*The dirpath has changed.*",
    ".*infer the batch indices.*",
    ".*in eval mode at the start of training.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice, unless it is asked for; what it refuses becomes one clear line.

    Log levels and filters of warnings are as before when it ends.

    Raises:
        UserError: the settings do not go together, or a checkpoint is of another network.
        Stopped: by Ctrl-C or SIGTERM.
    """
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    try:
        with stoppable(), warnings.catch_warnings():
            for log in logs:
                log.setLevel(logging.INFO if is_verbose() else logging.WARNING)
            for message in () if is_verbose() else _ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if str(error).startswith("Early stopping conditioned on metric"):
            raise UserError(f"trainer.callbacks: {error}") from error
        if "loading state_dict" not in str(error):
            raise
        detail = str(error).splitlines()[1].strip()
        raise UserError(f"the checkpoint is of another network: {detail}") from error
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Load a run's data, then give it its processes and its folder; say how to go on if it stops.

    Raises:
        Stopped: by Ctrl-C or SIGTERM.
        UserError: the run is refused, or its folder was removed or cannot be written.
    """
    _load(run)  # wrong data end the command before a folder is made
    run.processes = Processes(run.trainer)
    _check_kept(run)
    with ExitStack() as after:
        after.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = _quiet
        run.folder = _first_folder(run, after) if run.processes.is_first else Path()
        try:
            run.processes.meet()
            if run.processes.is_first and not run.is_trial:
                after.enter_context(logged_to(run.folder / LOG))
                say(f"{run.data.name}, seed {run.config['seed_everything']}: {run.folder}")
            run.folder = run.processes.agree(run.folder)
            yield
        except BaseException as error:
            run.processes.stop()
            raise_stopped(error, _how_to_go_on(run))
            if isinstance(error, OSError):
                check_run_folder(run.folder)
                if is_unwritable(error):
                    raise unwritable(run.folder, error) from None
            raise


def _load(run: Run) -> None:
    run.load_data("fit")
    if not run.is_trial:
        check_measured(run, "test")
    if isinstance(run.mask, FeatureMask):
        run.mask.anew = not run.uses_cache
    if run.checkpoint:
        check_resume(run.checkpoint, run.identity)


def _check_kept(run: Run) -> None:
    """Refuse to train parts of weights that no checkpoint puts together.

    Raises:
        UserError: they could not be measured.
    """
    if run.processes.divide_weights and not run.keeps_checkpoints:
        raise UserError(
            f"trainer.strategy is {run.trainer['strategy']}, which leaves each process a part of "
            "the weights, and a run measures them as its checkpoint has them: leave out "
            "trainer.enable_checkpointing and trainer.fast_dev_run, or choose ddp"
        )


def _first_folder(run: Run, after: ExitStack) -> Path:
    """Make the run's folder; what a trial leaves goes when ``after`` is closed."""
    if not run.is_trial:
        return make_folder(run)
    return Path(after.enter_context(tempfile.TemporaryDirectory(prefix="ntdh-fast-dev-run-")))


def make_folder(run: Run) -> Path:
    """Return the folder that was given, or make a new one in ``run_dir``; it gets the config.

    Raises:
        UserError: it cannot be written.
    """
    root = Path(run.config["run_dir"])
    try:
        folder = run.given_folder or _new_folder(root, short_name(run.identity))
        with write_atomic(folder / CONFIG) as temporary:
            # It repeats the run, whole and from any folder.
            settings = {**with_absolute_paths(run.config), "ckpt_path": None}
            del settings["no_cache"]
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False))
    except OSError as error:
        raise UserError(
            f"cannot make a run folder in {root}: {error.strerror}; give --run_dir a folder "
            "that can be written"
        ) from None
    return folder


def _new_folder(root: Path, run: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{run}"
    for number in range(1, 1000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{root} has 999 runs called {name}: give another --run_dir")


def _quiet(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of a log's writer: its error is raised where the log is next used."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _how_to_go_on(run: Run) -> str:
    if run.is_trial or run.given_folder:
        return ""
    checkpoint = run.last_checkpoint if run.last_checkpoint.is_file() else run.checkpoint
    if checkpoint:
        words = f"--ckpt_path {shlex.quote(str(checkpoint))}"
        return f"go on with `ntdh-bench {run.command} {words}`"
    config = shlex.quote(str(run.folder / CONFIG))
    return f"no epoch was finished; start again with `ntdh-bench {run.command} --config {config}`"
