"""Around a run: its processes and folder before it, one clear line if it ends early."""

from __future__ import annotations

import logging
import shlex
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ntdh_bench.cache import is_unwritable, unwritable
from ntdh_bench.errors import UserError
from ntdh_bench.masks import FeatureMask
from ntdh_bench.parsing.parser import CONFIG
from ntdh_bench.runs.checkpoint_files import check_run_folder
from ntdh_bench.runs.folder import make_folder
from ntdh_bench.runs.identity import check_resume
from ntdh_bench.runs.measuring import check_measured
from ntdh_bench.runs.processes import Processes
from ntdh_bench.runs.run import Run
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
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice in the block; what it refuses becomes one clear line.

    Raises:
        UserError: the settings do not go together, or a checkpoint is of another network.
        Stopped: by Ctrl-C or SIGTERM.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message)
    try:
        with stoppable():
            yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        detail = str(error).splitlines()[1].strip()
        raise UserError(f"the checkpoint is of another network: {detail}") from error


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Load a run's data, then give it its processes and its folder; say how to go on if it stops.

    Raises:
        Stopped: by Ctrl-C or SIGTERM.
        UserError: the run is refused, or its folder was removed or cannot be written.
    """
    _load(run)  # wrong data end the command before a folder is made
    run.processes = Processes(run.trainer)
    with ExitStack() as trial, _quiet_writers():
        run.folder = _first_folder(run, trial) if run.processes.is_first else Path()
        try:
            run.processes.meet()
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
        check_measured(run.trainer["limit_test_batches"], run.data, "test")
    if isinstance(run.mask, FeatureMask):
        run.mask.anew = not run.uses_cache
    if run.checkpoint:
        check_resume(run.checkpoint, run.identity)


def _first_folder(run: Run, trial: ExitStack) -> Path:
    """Make the run's folder; what a trial leaves goes when ``trial`` is closed."""
    if not run.is_trial:
        return make_folder(run)
    return Path(trial.enter_context(tempfile.TemporaryDirectory(prefix="ntdh-fast-dev-run-")))


@contextmanager
def _quiet_writers() -> Iterator[None]:
    """Print no traceback of a log's writer: its error is raised where the log is next used."""
    hook = threading.excepthook

    def quiet(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            threading.__excepthook__(failure)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = hook


def _how_to_go_on(run: Run) -> str:
    if run.is_trial or run.given_folder:
        return ""
    checkpoint = run.last_checkpoint if run.last_checkpoint.is_file() else run.checkpoint
    if checkpoint:
        words = f"--ckpt_path {shlex.quote(str(checkpoint))}"
        return f"go on with `ntdh-bench {run.command} {words}`"
    config = shlex.quote(str(run.folder / CONFIG))
    return f"no epoch was finished; start again with `ntdh-bench {run.command} --config {config}`"
