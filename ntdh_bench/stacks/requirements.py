"""What the config of a run must be like for it to share a stack. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ntdh_bench.composition import Config, arguments_of, same_class
from ntdh_bench.run_hash import PINNED, run_hash

# Members of a stack may differ in these, and in their seeds and masks.
_OF_MEMBERS = (
    "distiller", "task_weight", "distill_weight", "lam", "teacher_checkpoint",
    "teacher_dist_weight", "teacher_dist", "intervention",
)  # fmt: skip
_MODEL = "ntdh_bench.models.DistillationModule"
#: Networks that have a stacked form; none of them keeps batch statistics or labels pixels.
NETWORKS = tuple(
    f"ntdh_bench.models.{name}" for name in ("MLPClassifier", "SeriesCNN", "ImageCNN", "AudioCNN")
)
#: Those of both modalities that have one if the networks that they join do.
FUSIONS = tuple(f"ntdh_bench.models.{n}" for n in ("LateFusion", "ConcatFusion", "GatedFusion"))
# Methods that give the student batch statistics.
_NORMALISING = ("ntdh_bench.distillers.SimKD",)
# Those that look at one value of a parameter and its gradient at a time.
_OPTIMIZERS = tuple(
    f"torch.optim.{name}"
    for name in (
        "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Adadelta",
    )
)  # fmt: skip
# Those that go by the number of the epoch, and not by how a run does.
_SCHEDULERS = (
    "ntdh_bench.models.WarmupCosine",
    *(
        f"torch.optim.lr_scheduler.{name}"
        for name in (
            "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR",
            "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR",
        )
    ),
)  # fmt: skip
_IGNORED = 255  # what no target of a class is
_FEATURE_MASK, _SAMPLE_MASK = "ntdh_bench.masks.FeatureMask", "ntdh_bench.masks.SampleMask"
# Settings of the Trainer that a stack follows, whatever they are ...
_FOLLOWED = re.compile(
    r"max_(epochs|steps)|accelerator|gradient_clip_(val|algorithm)|check_val_every_n_epoch|"
    r"limit_\w+_batches|deterministic|num_sanity_val_steps|accumulate_grad_batches|enable_\w+|"
    r"logger|log_every_n_steps|default_root_dir|benchmark|use_distributed_sampler"
)
# ... and those of which it follows some values: mostly what a Trainer does if it is told nothing.
_FOLLOWED_AS: dict[str, tuple[Any, ...]] = {
    "devices": (1, "1", "auto"), "precision": (32, "32", "32-true", "bf16-mixed"),
    "strategy": ("auto",), "num_nodes": (1,), "fast_dev_run": (0,), "overfit_batches": (0,),
    "inference_mode": (True,), "detect_anomaly": (False,), "barebones": (False,),
    "sync_batchnorm": (False,), "reload_dataloaders_every_n_epochs": (0,),
}  # fmt: skip


def why_alone(config: Config) -> str | None:
    """Return what keeps a run out of any stack, in a few words; None if nothing does."""
    command = config.get("command", "fit")
    if command != "fit":
        return f"{command} command"
    if config.get("ckpt_path"):
        return "ckpt_path"
    if arguments_of(config.get("data")).get("num_workers"):
        return "data.num_workers"
    return _of_model(config.get("model")) or _of_trainer(config) or _of_mask(config.get("mask"))


def stack_key(config: Config) -> str:
    """Return what runs that may share a stack have in common, as 16 hex digits.

    Args:
        config: of a run that nothing keeps alone.
    """
    shared = {
        name: value
        for name, value in config.items()
        if name not in ("seed_everything", "mask", *PINNED)
    }
    model = arguments_of(config["model"])
    arguments = {name: value for name, value in model.items() if name not in _OF_MEMBERS}
    return run_hash({**shared, "model": {**config["model"], "init_args": arguments}})


def is_among(part: Any, classes: tuple[str, ...]) -> bool:
    """Return whether a part of a config is of one of these classes."""
    return any(same_class(_class_path(part), name) for name in classes)


def networks_of(arguments: Config) -> tuple[list[Any], list[Any]]:
    """Return the fusions in a model's arguments, and the networks of one modality."""
    fusions, networks = [], []
    student = arguments.get("student_network")
    for network in (arguments.get("teacher_network") or student, student):
        if is_among(network, FUSIONS):
            fusions.append(network)
            networks += [arguments_of(network).get(name) for name in ("teacher", "student")]
        else:
            networks.append(network)
    if arguments.get("teacher_fusion") is not None:
        fusions.append(arguments["teacher_fusion"])
        networks.append(student)
    return fusions, networks


def _normalises(part: Any) -> bool:
    """Return whether there is a method in a distiller that gives the student batch statistics."""
    if isinstance(part, Mapping):
        return is_among(part, _NORMALISING) or any(map(_normalises, part.values()))
    return isinstance(part, list) and any(map(_normalises, part))


def _of_model(model: Any) -> str | None:
    if not is_among(model, (_MODEL,)):
        return f"model {_name(model)}"
    arguments = arguments_of(model)
    fusions, networks = networks_of(arguments)
    for found, classes in ((fusions, FUSIONS), (networks, NETWORKS)):
        for network in found:
            if not is_among(network, classes):
                return f"{_name(network)} has no stacked form"
    for key, classes in (("optimizer", _OPTIMIZERS), ("scheduler", _SCHEDULERS)):
        part = arguments.get(key)
        if part is not None and not is_among(part, classes):
            return f"{key} {_name(part)}"
    if _normalises(arguments.get("distiller")):
        return "SimKD keeps statistics of batches"
    # Where targets are ignored, members may have different numbers of rows.
    return None if arguments.get("ignore_index", _IGNORED) == _IGNORED else "model.ignore_index"


def _of_trainer(config: Config) -> str | None:
    trainer = config.get("trainer")
    for name, value in trainer.items() if isinstance(trainer, Mapping) else ():
        if value is None or _FOLLOWED.fullmatch(name) or value in _FOLLOWED_AS.get(name, ()):
            continue
        return f"trainer.{name}"
    return None


def _of_mask(mask: Any) -> str | None:
    arguments = arguments_of(mask)
    if mask is None or is_among(mask, (_SAMPLE_MASK,)):
        # Each member would have another number of rows.
        return None if arguments.get("threshold") is None else "mask.threshold"
    if not is_among(mask, (_FEATURE_MASK,)):
        return f"mask {_name(mask)}"
    return "mask.fill: retrain" if arguments.get("fill") == "retrain" else None


def _class_path(part: Any) -> Any:
    return part.get("class_path") if isinstance(part, Mapping) else part


def _name(part: Any) -> str:
    return str(_class_path(part)).rpartition(".")[2]
