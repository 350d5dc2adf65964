"""What identifies a run of an experiment: a hash of its merged config. Imports no torch.

The hash is that of the YAML, of the third-party code that this names (``provenance``) and of a
given teacher: defaults of this package's classes are not part of it. When such a default changes,
it goes to :data:`CHANGED_DEFAULTS`, and protocols that were measured get the old value written out:
their hashes stay, and runs that leave it to the default get new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.cache import digest, file_digest
from ntdh_bench.composition import Config, arguments_of, same_class
from ntdh_bench.provenance import code_of

PINNED = ("third_party", "given_teacher", "own_data")


class ChangedDefault(NamedTuple):
    """An argument of a class of models that does not default to what runs were measured with.

    Attributes:
        class_name: of the model, without its module.
        argument: of ``model.init_args``.
        before: what runs had whose YAML does not name it.
        now: the default.
    """

    class_name: str
    argument: str
    before: Any
    now: Any


CHANGED_DEFAULTS = (ChangedDefault("TwoDPASSModule", "class_weighting", "pmf", "2dpass"),)
# Of which a ``fill`` of ``zero`` or ``retrain`` was once a ``retrain`` of false or true: so it is
# hashed, and so records have it.
_FEATURE_MASK = "ntdh_bench.masks.FeatureMask"
_STANDARDIZED = ("KD", "DKD", "WeightedKL")
_GATHERING = ("CC", "DIST", "MLKD", "PKT", "RKD", "SKD", "SP", "SRD")
# Arguments that came after the first records, and what they would have been: where they are just
# that, they are no part of what a run is.
_LATER: dict[str, Config] = {
    "ntdh_bench.models.DistillationModule": {
        "class_weights": None,
        "teacher_inputs": "own",
        "teacher_fusion": None,
        "teacher_dist_weight": 1,
        "teacher_dist": "kl",
        "intervention": None,
    },
    "ntdh_bench.models.JointModule": {"teacher_inputs": "own", "dist_weight": 1, "dist": "kl"},
    "ntdh_bench.models.TeacherModule": {"class_weights": None},
    "ntdh_bench.models.MutualModule": {"class_weights": None},
    "ntdh_bench.models.C2KDModule": {"class_weights": None},
    "ntdh_bench.models.MSTDistillModule": {"class_weights": None},
    "ntdh_bench.datamodules.NYUDepthV2DataModule": {"protocol": "pooled"},
    **{f"ntdh_bench.distillers.{name}": {"gather": False} for name in _GATHERING},
    "ntdh_bench.distillers.CRD": {"shared_negatives": False, "gather": False},
    _FEATURE_MASK: {"score": "ncjsd", "draw": 0, "saliency": "signed"},
    "ntdh_bench.masks.SampleMask": {"score": "ncjsd", "threshold": None},
    **{f"ntdh_bench.distillers.{name}": {"standardize": False} for name in _STANDARDIZED},
    **{f"ntdh_bench.models.{c.class_name}": {c.argument: c.before} for c in CHANGED_DEFAULTS},
}
# Arguments that classes had when the first records were made: hashed as if they still had them.
_FORMER: dict[str, Config] = {"ntdh_bench.models.TwoDPASSNet": {"sparse_backend": "auto"}}
# The schedule that has to be told no epochs any more, and the optimiser that decayed no weights
# under these models unless it was told to: they kept what SGD, their default one, sets.
_FOLLOWS = "ntdh_bench.models.WarmupCosine"
_ADAMW = "torch.optim.AdamW"
_UNDECAYED = ("ntdh_bench.models.DistillationModule", "ntdh_bench.models.TeacherModule")


def run_hash(config: Config) -> str:
    """Return the 16 hex digits that identify a run.

    1 and 1.0 are the same value, and a Trainer's argument that is null is one left out.
    """
    return digest(canonical(config))


def run_hashes(config: Config, seeds: Iterable[int]) -> list[str]:
    """Return :func:`run_hash` of a config with each of the seeds, in a fraction of the time."""
    form = canonical(config)
    return [digest({**form, "seed_everything": seed}) for seed in seeds]


def canonical(config: Config) -> Config:
    """Return the form of a config that is hashed, the same for equal runs."""
    form: Config = _canonical(_as_before(config))
    return form


def _as_before(config: Config) -> Config:
    """Return a config as it would have been written when the first runs were."""
    trainer, model, mask = config.get("trainer"), config.get("model"), config.get("mask")
    if isinstance(mask, dict) and same_class(mask.get("class_path"), _FEATURE_MASK):
        config = {**config, "mask": _mask_as_before(mask)}
    if isinstance(trainer, dict):
        given = {name: value for name, value in trainer.items() if value is not None}
        config = {**config, "trainer": given}
    if not isinstance(model, dict):
        return config
    init_args = dict(model.get("init_args") or {})
    for class_name, argument, before, now in CHANGED_DEFAULTS:
        if str(model.get("class_path")).rpartition(".")[2] == class_name:
            init_args = {argument: now, **init_args}
            if init_args[argument] == before:
                del init_args[argument]
    init_args = with_epochs(init_args, config.get("trainer"))
    optimizer = init_args.get("optimizer")
    among = any(same_class(model.get("class_path"), name) for name in _UNDECAYED)
    if among and isinstance(optimizer, dict) and same_class(optimizer.get("class_path"), _ADAMW):
        given = {"weight_decay": 0.01, **(optimizer.get("init_args") or {})}
        if not given["weight_decay"]:
            del given["weight_decay"]
        init_args["optimizer"] = {**optimizer, "init_args": given}
    return {**config, "model": {**model, "init_args": init_args}} if init_args else config


def _mask_as_before(mask: Config) -> Config:
    given = arguments_of(mask)
    if given.get("fill") == "zero":
        given = {name: value for name, value in given.items() if name != "fill"}
    return {**mask, "init_args": _with_retrain(given)} if "fill" in arguments_of(mask) else mask


def with_epochs(arguments: Config, trainer: Any) -> Config:
    """Return a model's arguments with the epochs that its schedule takes from the Trainer."""
    schedule = arguments.get("scheduler")
    if not isinstance(schedule, dict) or not same_class(schedule.get("class_path"), _FOLLOWS):
        return arguments
    given = schedule.get("init_args") or {}
    epochs = trainer.get("max_epochs") if isinstance(trainer, dict) else None
    teacher_differs = arguments.get("teacher_epochs") is not None
    if given.get("epochs") is not None or epochs is None or teacher_differs:
        return arguments
    return {**arguments, "scheduler": {**schedule, "init_args": {**given, "epochs": epochs}}}


def without_later(value: Any) -> Any:
    """Return settings without later arguments of the classes in them that change nothing."""
    return _of_classes(value, _drop_later)


def with_former(value: Any) -> Any:
    """Return settings with the former arguments of the classes in them."""
    return _of_classes(value, _add_former)


def _of_classes(value: Any, change: Callable[[str, Config], Config]) -> Any:
    """Return settings whose classes' arguments are changed, by the path of each class."""
    if isinstance(value, list):
        return [_of_classes(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    settings = {name: _of_classes(item, change) for name, item in value.items()}
    given = settings.get("init_args") or {}
    changed = change(str(value.get("class_path")), given)
    return settings if changed == given else {**settings, "init_args": changed}


def _drop_later(class_path: str, given: Config) -> Config:
    later = _LATER.get(class_path, {})
    kept = {n: v for n, v in given.items() if n not in later or v != later[n]}
    return _with_retrain(kept) if class_path == _FEATURE_MASK else kept


def _with_retrain(given: Config) -> Config:
    """Return a feature mask's arguments with the ``retrain`` that there was for their ``fill``."""
    if given.get("fill") not in ("zero", "retrain"):
        return given
    rest = {name: value for name, value in given.items() if name != "fill"}
    return {**rest, "retrain": given["fill"] == "retrain"}


def _add_former(class_path: str, given: Config) -> Config:
    return {**_FORMER.get(class_path, {}), **given}


def pin(config: Config) -> Config:
    """Return ``config`` with the state of what it names but does not hold, so that it is hashed.

    That is, where there is some, third-party code (``third_party``), the content of a given
    teacher (``given_teacher``) and of the user's own file of data (``own_data``). What is pinned
    already is pinned anew.
    """
    plain = {key: value for key, value in config.items() if key not in PINNED}
    teacher = arguments_of(plain.get("model")).get("teacher_checkpoint")
    file = os.path.expanduser(str(arguments_of(plain.get("data")).get("file") or ""))  # noqa: PTH111
    state = {
        "third_party": code_of(plain),
        "given_teacher": _content(str(teacher or "")),
        "own_data": _content(file),
    }
    return {**plain, **{key: value for key, value in state.items() if value}}


@cache
def _content(file: str) -> str | None:
    """Return a digest of a file, None if there is none: the run will say so."""
    there = os.path.isfile(file)  # noqa: PTH113 (Path.is_file raises where a name is too long)
    return file_digest(Path(file), "sha256")[:16] if there else None


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
