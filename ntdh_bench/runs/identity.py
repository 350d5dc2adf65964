"""What of a config makes a run what it is, and what a checkpoint was made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntdh_bench import provenance
from ntdh_bench.checkpoints import file_hash, read_checkpoint
from ntdh_bench.composition import Config
from ntdh_bench.errors import UserError
from ntdh_bench.notices import notice
from ntdh_bench.records.identity import arm
from ntdh_bench.run_hash import with_epochs, without_later

# Where files lie and how many workers read them changes no number.
_NOT_DATA = {"root", "file", "features", "cache_dir", "num_workers", "jobs"}
# Of the Trainer everything counts but what it shows, logs and keeps.
_NOT_TRAINING = {
    "logger", "log_every_n_steps", "enable_progress_bar", "enable_model_summary",
    "enable_checkpointing", "enable_autolog_hparams", "default_root_dir", "profiler",
    "num_sanity_val_steps", "detect_anomaly",
}  # fmt: skip
# A resumed run may be prolonged; which teacher it uses is checked by the teacher's own hash.
_MAY_DIFFER = {"trainer.max_epochs", "trainer.max_steps", "given_teacher"}


def identify(
    config: Config, code: Mapping[str, str], source: str, fingerprint: str
) -> dict[str, Any]:
    """Return the settings, data and code that results depend on: no paths, workers or logs.

    Args:
        config: resolved.
        code: third-party code that it names; under ``third_party``, where there is some.
        source: ``real`` or ``simulated``.
        fingerprint: of the data, stands for their files.
    """
    trainer = {
        name: value
        for name, value in config["trainer"].items()
        if value is not None and name not in _NOT_TRAINING
    }
    model, mask = config["model"], config.get("mask")
    arguments = model.get("init_args", {})
    teacher = arguments.get("teacher_checkpoint")
    if arguments:
        model = {**model, "init_args": with_epochs(arguments, trainer)}
    identity = {
        "seed": config["seed_everything"],
        "model": _without(without_later(model), {"teacher_checkpoint"}),
        "data": {
            **_without(without_later(config["data"]), _NOT_DATA),
            "source": source,
            "fingerprint": fingerprint,
        },
        "mask": mask and _without(without_later(mask), {"cache_dir"}),
        "trainer": trainer,
        "given_teacher": file_hash(teacher) if teacher else None,
    }
    named = provenance.named_in(identity, code)
    return {**identity, "third_party": named} if named else identity


def _without(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a class's settings without some of its own arguments (not those of its parts)."""
    if "init_args" not in settings:
        return settings
    kept = {name: value for name, value in settings["init_args"].items() if name not in names}
    return {**settings, "init_args": kept}


def short_name(identity: dict[str, Any]) -> str:
    """Name the run after its data, method, mask and intervention: for people, not for programs."""
    model = identity["model"]
    arguments = model.get("init_args") or {}
    distiller = arguments.get("distiller")
    parts = [identity["data"]["class_path"], model["class_path"]]
    if arm(identity) != "single":
        parts[1] = distiller["class_path"] if distiller else arm(identity)
    between = identity["mask"], arguments.get("intervention")
    parts += [part["class_path"] for part in between if part]
    short = "-".join(part.rpartition(".")[2].replace("DataModule", "") for part in parts)
    return f"{short}-seed{identity['seed']}"


def check_resume(path: str, identity: dict[str, Any]) -> None:
    """Raise a UserError if a checkpoint was made with other settings than those given."""
    made_with = read_checkpoint(path).get("identity") or {}
    for name in _changed_code(made_with, identity):
        raise UserError(
            f"the code of {name} is not that which {path} was made with: a resumed run keeps its "
            "code; restore it, or start a new run without --ckpt_path"
        )
    saved, given = (
        _flatten({name: value for name, value in settings.items() if name != "third_party"})
        for settings in (made_with, identity)
    )
    for name in sorted(saved.keys() | given.keys()):
        if name not in _MAY_DIFFER and saved.get(name) != given.get(name):
            raise UserError(
                f"{name} is {given.get(name)!r}, but {path} was made with {saved.get(name)!r}: a "
                "resumed run keeps its settings; drop the flag, or start a new run without "
                "--ckpt_path"
            )


def _changed_code(saved: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return what third-party code is not what it was; what no one noted may differ."""
    before, now = (settings.get("third_party", {}) for settings in (saved, identity))
    return sorted(name for name in before.keys() & now.keys() if before[name] != now[name])


def check_evaluated(path: str, identity: dict[str, Any]) -> None:
    """Raise a UserError if a checkpoint was made with another mask; say if with other code."""
    saved = read_checkpoint(path).get("identity") or {}
    if saved.get("mask") != identity["mask"]:
        raise UserError(
            f"{path} was made with the mask {saved.get('mask')}, but here it is "
            f"{identity['mask']}: leave out --config to use the settings of its run"
        )
    for name in _changed_code(saved, identity):
        notice(f"the code of {name} is not that which {path} was trained with")


def _flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(plain, dict):
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat
