"""Runs trained as one stack: their teachers, saliencies and students, and a record of each."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ntdh_bench import __version__
from ntdh_bench.cache import is_usable, locked, origin, seal
from ntdh_bench.checkpoints import read_checkpoint, write_checkpoint
from ntdh_bench.contract import StackMember
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.masks import FeatureMask, SampleMask
from ntdh_bench.notices import notice
from ntdh_bench.records.identity import config_hash
from ntdh_bench.runs import control
from ntdh_bench.runs.checkpoint_files import BEST, LAST
from ntdh_bench.runs.fitting import make_record
from ntdh_bench.runs.measuring import check_measured
from ntdh_bench.runs.processes import Processes
from ntdh_bench.runs.run import Run
from ntdh_bench.runs.teacher import cache_path, reference_key, saved_teacher, teacher_key
from ntdh_bench.runs.trainers import make_trainer, teacher_length
from ntdh_bench.stacks.data import StackedData, check_alike
from ntdh_bench.stacks.progress import tell

_NO_MEMORY = re.compile("out of memory|allocate memory")
_SECONDS = 60.0  # between checkpoints, at least; a kill loses no more than that and an epoch


class TooLarge(UserError):
    """A stack that needs more memory than there is."""


def fit_stack(runs: Sequence[Run], folder: Path) -> list[dict[str, Any] | UserError]:
    """Train runs of one network pair as a stack, and test them.

    Args:
        runs: differ in seeds, teachers, masks, distillers and weights; are used once.
        folder: of the stack. What was trained is kept in it until all is done, and gone on from.

    Returns:
        The record of each run, or why it failed.

    Raises:
        NotStackable: they cannot be trained as one.
        TooLarge: memory ran out.
        UserError: what all of them share is refused.
    """
    started = time.monotonic()
    with _out_of_memory(len(runs)):
        members = _members(runs, folder)
        started -= _give_teachers(members, folder)
        trainer = _training(runs[0], folder, "students", started)
        _give_masks(members, trainer)
        _give_references(members, folder)
        if left := _left(members):
            _fit_students(left, trainer)
    seconds = (time.monotonic() - started + _keeper(trainer).seconds) / len(runs)
    return [_record(member, trainer, len(runs), seconds) for member in members]


@dataclass
class _Member:
    """A run of the stack.

    Attributes:
        run: that it is.
        origin: of its teacher: ``given``, ``cached`` or ``trained``.
        failure: why it failed, if it did.
        outcome: ``epochs``, ``metrics`` and ``curves`` of its record.
    """

    run: Run
    origin: str = ""
    failure: UserError | None = None
    outcome: dict[str, Any] = field(default_factory=dict)


@contextmanager
def _out_of_memory(size: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # What PyTorch raises on a CPU is a plain RuntimeError.
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        raise TooLarge(
            f"a stack of {size} runs needs more memory than there is: give `sweep --stack` a "
            "smaller number"
        ) from error


def _members(runs: Sequence[Run], folder: Path) -> list[_Member]:
    """Begin the runs; those of the same data share one data module."""
    loaded: list[Run] = []
    for run in runs:
        same = next((r for r in loaded if _data_of(r) == _data_of(run)), None)
        if same is None:
            run.load_data("fit")
            loaded.append(run)
        else:
            run.data = same.data
        run.processes, run.folder = Processes(run.trainer), folder
        if isinstance(run.mask, FeatureMask):
            run.mask.anew = not run.uses_cache
    check_alike(_streams(runs))
    check_measured(runs[0], "test")
    return [_Member(run) for run in runs]


def _data_of(run: Run) -> tuple[Any, Any]:
    return run.config["data"], run.config["seed_everything"]  # the command line links it


def _left(members: Sequence[_Member]) -> list[_Member]:
    return [member for member in members if member.failure is None]


def _streams(runs: Sequence[Run]) -> list[Any]:
    """Return the data modules of runs, each once."""
    return list({id(run.data): run.data for run in runs}.values())


def _training(run: Run, folder: Path, name: str, started: float, **changes: Any) -> Trainer:
    """Return a Trainer with a run's settings that keeps what it trains in ``<name>.ckpt``."""
    quiet: dict[str, Any] = {"callbacks": None, "logger": False, "enable_checkpointing": True}
    keeper = StackCheckpoint(folder / f"{name}.ckpt", started)
    return make_trainer(run, "stack", folder, [keeper], **quiet, **changes)


class StackCheckpoint(Checkpoint):
    """Keeps the last epoch of a stack that another process can go on from, now and then.

    Args:
        path: of the file.
        started: when its work began, by ``time.monotonic``.

    Attributes:
        made_of: plain values that tell one stack from another.
        seconds: of work before that, by whoever left the checkpoint.
    """

    def __init__(self, path: Path, started: float) -> None:
        self._path = path
        self.made_of: list[Any] = []
        self._started = self._saved = started
        self.seconds = 0.0

    @property
    def _identity(self) -> dict[str, Any]:
        versions = {"ntdh-bench": __version__, "torch": str(torch.__version__)}
        return {"members": self.made_of, **versions}

    def found(self) -> Path | None:
        """Return the file if a stack of these members can go on from it; a damaged one is said."""
        if not self._path.is_file():
            return None
        try:
            saved = read_checkpoint(self._path)
        except FileError as error:
            notice(f"{error}; the stack is trained anew")
            return None
        return self._path if saved.get("identity") == self._identity else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how far it is; save, if that was not done for a while (Lightning hook)."""
        stage, done = self._path.stem, trainer.current_epoch + 1
        tell(self._path.parent, stage, done, trainer.max_epochs)
        if time.monotonic() - self._saved > _SECONDS:
            trainer.save_checkpoint(self._path)
            self._saved = time.monotonic()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the stack is made of, and the time that it took (Lightning hook)."""
        checkpoint["identity"] = self._identity
        checkpoint["seconds"] = self.seconds + time.monotonic() - self._started

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the time that it took (Lightning hook)."""
        self.seconds = float(checkpoint["seconds"])


def _fit(
    trainer: Trainer, stack: LightningModule, streams: Sequence[Any], made_of: list[Any]
) -> None:
    keeper = _keeper(trainer)
    keeper.made_of = made_of
    trainer.fit(stack, datamodule=StackedData(streams), ckpt_path=keeper.found())


def _keeper(trainer: Trainer) -> StackCheckpoint:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    (keeper,) = [callback for callback in callbacks if isinstance(callback, StackCheckpoint)]
    return keeper


# -- teachers ------------------------------------------------------------------------------------


def _give_teachers(members: Sequence[_Member], folder: Path) -> float:
    """Load the teachers of all runs, first training those that are nowhere, as a stack.

    Returns:
        The seconds that an interrupted attempt has trained them.
    """
    sources: dict[Path, list[_Member]] = {}
    for member in members:
        try:
            _check_teacher(member.run)
            sources.setdefault(_teacher_file(member.run), []).append(member)
        except UserError as error:
            member.failure = error
    given = {path for path, group in sources.items() if saved_teacher(group[0].run)}
    with ExitStack() as locks:
        for path in sorted(sources.keys() - given):  # in one order: stacks must not block another
            locks.enter_context(locked(path))
        firsts = {path: group[0].run for path, group in sources.items() if path not in given}
        cached = {path for path, run in firsts.items() if run.uses_cache and is_usable(path)}
        missing = {path: run for path, run in firsts.items() if path not in cached}
        failures, earlier = _train(missing, folder, "teachers")
    for path, group in sources.items():
        for member in group:
            member.failure = failures.get(path)
            member.origin = "given" if path in given else "cached" if path in cached else "trained"
            if path in cached:
                member.run.from_cache["teacher"] = origin(path)
        if left := _left(group):
            _load(path, left)
    return earlier


def _check_teacher(run: Run) -> None:
    run.model.frozen_teacher.check(run.data)
    if isinstance(run.mask, FeatureMask):
        run.mask.check(run.model.frozen_teacher, run.data)


def _teacher_file(run: Run) -> Path:
    return saved_teacher(run) or cache_path("teacher", teacher_key(run))


def _load(path: Path, members: Sequence[_Member]) -> None:
    """Load a teacher once for all runs that it teaches; they fail if it cannot be had."""
    first, *others = [member.run.model.frozen_teacher for member in members]
    try:
        first.load(path, with_reference=False)
    except UserError as error:
        for member in members:
            member.failure = error
        return
    for teacher in others:
        teacher.hold(first.network, first.companion)


def _give_references(members: Sequence[_Member], folder: Path) -> None:
    """Load the students without KD that interventions ask for, first training those missing."""
    asking: dict[Path, list[_Member]] = {}
    for member in _left(members):
        teacher = member.run.model.frozen_teacher
        if teacher.needs_reference and teacher.reference is None:
            path = cache_path("reference", reference_key(member.run))
            asking.setdefault(path, []).append(member)
    with ExitStack() as locks:
        for path in sorted(asking):
            locks.enter_context(locked(path))
        firsts = {path: group[0].run for path, group in asking.items()}
        missing = {p: run for p, run in firsts.items() if not (run.uses_cache and is_usable(p))}
        failures, _ = _train(missing, folder, "references")
    for path, group in asking.items():
        for member in group:
            member.failure = failures.get(path)
            if path not in missing:
                member.run.from_cache["reference"] = origin(path)
        for member in _left(group):
            member.run.model.frozen_teacher.refer_to(path)


def _train(
    missing: Mapping[Path, Run], folder: Path, stage: Literal["teachers", "references"]
) -> tuple[dict[Path, UserError], float]:
    """Train the teachers of runs, or their students without KD, and put them into the cache.

    Returns:
        Those that failed, and the seconds of an interrupted attempt.
    """
    if not missing:
        return {}, 0.0
    runs = list(missing.values())
    streams = _streams(runs)
    modules = [_untrained(run, stage) for run in runs]
    parts = [
        StackMember(module, streams.index(run.data))
        for module, run in zip(modules, runs, strict=True)
    ]
    stack = modules[0].stack(parts, streams)
    unmeasured = {"limit_val_batches": 0, "num_sanity_val_steps": 0}
    names = [path.name for path in missing]
    length = teacher_length(runs[0]) if stage == "teachers" else {}
    trainer = _training(runs[0], folder, stage, time.monotonic(), **unmeasured, **length)
    _fit(trainer, stack, streams, names)
    failures: dict[Path, UserError] = {}
    for number, path in enumerate(missing):
        if number in stack.failures:
            failures[path] = UserError(stack.failures[number])
            continue
        state = {name: value.cpu() for name, value in stack.state_of(number).items()}
        write_checkpoint({"state_dict": state}, path)
        seal(path, path)
    return failures, _keeper(trainer).seconds


def _untrained(run: Run, stage: Literal["teachers", "references"]) -> Any:
    if stage == "references":
        return run.model.reference_module()
    return run.model.teacher_module(run.model.frozen_teacher.kind)


def _give_masks(members: Sequence[_Member], trainer: Trainer) -> None:
    """Choose the features that stay; a saliency is found once for all ratios of a teacher."""
    data = StackedData(_streams([member.run for member in members]))
    data.trainer = trainer  # batches are made where it computes
    data.setup("fit")
    try:
        _choose_features(_left(members), trainer.strategy.root_device)
    finally:
        data.teardown("fit")


def _choose_features(members: Sequence[_Member], device: torch.device) -> None:
    found: dict[tuple[Any, ...], FeatureMask] = {}
    for member in members:
        mask, teacher = member.run.mask, member.run.model.frozen_teacher
        if not isinstance(mask, FeatureMask):
            continue
        key = (teacher.hash, mask.removes == "random", mask.fill == "mean", mask.algorithm)
        if key in found:
            mask.share(found[key])
            continue
        teacher.to(device)
        try:
            mask.prepare(teacher, member.run.data)
            found[key] = mask
        except UserError as error:
            member.failure = error
        finally:
            teacher.release()  # to where the teachers without a mask are


# -- students ------------------------------------------------------------------------------------


def _fit_students(members: Sequence[_Member], trainer: Trainer) -> None:
    """Train the students, and keep what is measured of each."""
    runs = [member.run for member in members]
    streams = _streams(runs)
    stack = runs[0].model.stack([_part(run, streams) for run in runs], streams)
    _fit(trainer, stack, streams, [_made_of(run) for run in runs])
    measured = {"last": _measured(runs[0], stack, streams)}
    if runs[0].keeps_checkpoints and stack.curves:
        stack.take_best()
        measured["best"] = _measured(runs[0], stack, streams)
    for number, member in enumerate(members):
        student = int(stack.student_of[number])
        if student in stack.failures:
            member.failure = UserError(stack.failures[student])
            continue
        best = f"{BEST}epoch={int(stack.best_epoch[student])}.ckpt"
        names = {"last": LAST if member.run.keeps_checkpoints else None, "best": best}
        metrics = {
            name: {"checkpoint": names[name], **_of_run(splits, number)}
            for name, splits in measured.items()
        }
        curves = {name: [float(v[number]) for v in values] for name, values in stack.curves.items()}
        outcome = {"epochs": trainer.current_epoch, "metrics": {"best": None, **metrics}}
        if estimates := stack.estimates_of(number):
            outcome["estimates"] = estimates
        if control.is_control(member.run):
            member.outcome = {**outcome, **control.kept(member.run, curves)}
        else:
            member.outcome = {**outcome, "curves": curves}


def _made_of(run: Run) -> list[str]:
    """Return what a student is trained by: a teacher trained anew on a GPU has other last bits."""
    keep = run.mask.keep if isinstance(run.mask, FeatureMask) else None
    kept = "" if keep is None else "".join(map(str, keep.int().tolist()))
    return [config_hash(run.identity), run.model.frozen_teacher.hash, kept]


def _part(run: Run, streams: Sequence[Any]) -> StackMember:
    stream = streams.index(run.data)
    if isinstance(run.mask, SampleMask):
        run.model.sample_mask = run.mask
    if isinstance(run.mask, FeatureMask):
        return StackMember(run.model, stream, run.mask.layer, run.mask.layer_mask())
    return StackMember(run.model, stream)


def _measured(run: Run, stack: Any, streams: Sequence[Any]) -> dict[str, dict[str, Tensor]]:
    """Return the metrics of each split by name, ``(R,)``, with the students as they are."""
    quiet: dict[str, Any] = {"enable_checkpointing": False, "callbacks": None, "logger": False}
    trainer = make_trainer(run, "measuring", run.folder, [], **quiet)
    stack.measured = {}
    data = StackedData(streams)
    if run.data.has_validation and trainer.limit_val_batches:
        trainer.validate(stack, datamodule=data, verbose=False)
    trainer.test(stack, datamodule=data, verbose=False)
    return dict(stack.measured)


def _of_run(splits: dict[str, dict[str, Tensor]], number: int) -> dict[str, dict[str, float]]:
    return {
        split: {name: float(values[number]) for name, values in found.items()}
        for split, found in splits.items()
    }


def _record(
    member: _Member, trainer: Trainer, size: int, seconds: float
) -> dict[str, Any] | UserError:
    if member.failure is not None:
        return member.failure
    made = make_record(member.run, trainer, member.outcome, member.origin, seconds)
    return {**made, "stack": size}
