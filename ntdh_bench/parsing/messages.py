"""What jsonargparse says of a wrong argument, a tree of the types that were tried, as one line."""

from __future__ import annotations

import re
from collections.abc import Collection
from pkgutil import resolve_name
from typing import NamedTuple

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ntdh_bench.distillers import Distiller
from ntdh_bench.interventions import Intervention
from ntdh_bench.masks import Mask
from ntdh_bench.parsing.classes import parameters_of
from ntdh_bench.suggestions import did_you_mean

CHOICES: dict[str, type] = {
    "model": LightningModule,
    "data": LightningDataModule,
    "distiller": Distiller,
    "intervention": Intervention,
    "mask": Mask,
}

# By the last words of other keys: classes of which a misspelt name may be one, among many more.
MANY: dict[str, type] = {
    "network": nn.Module,
    "fusion": nn.Module,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "callbacks": Callback,
    "logger": Logger,
}

_FRAME = re.compile(
    r"Given value|Subtypes: |Errors:$|Does not validate against|Expected a path but "
    r"|Subclass types expect one of:|a class path \(str\)$|a dict with(out)? "
    r"|Problem with given class_path '[^']+':$|Expected a <class 'NoneType'>"
)
_KEY = re.compile(r'Parser key "([^"]+)":? *')
_CALLABLE = re.compile(r"Type \S*Callable\[.*?\] expects a function or a callable class: ")
_NO_PATH = "Expected a dot import path string: "
_CLASS = re.compile(r"given class_path '([^']+)'|Namespace\(class_path='([^']+)'")
_NO_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_NO_MEMBER = re.compile(r"Group '(\w+)' does not accept option '([^']+)'")
_NO_FLAG = re.compile(r"unrecognized arguments: (--[^\s=]+)")
_LITERAL = re.compile(r"Expected a typing\.Literal\[(.+?)\]")


class _Reason(NamedTuple):
    depth: int
    key: str
    text: str


def explain(message: str, flags: Collection[str] = ()) -> str:
    """Return the key and why its value was refused: by the type that came closest.

    A class that was found and has a complaint of its own comes closer than types of another kind.

    Args:
        message: of the parser.
        flags: all that it takes.
    """
    if found := _NO_FLAG.match(message):
        return f"there is no flag {found[1]}: {_near_flag(found[1], flags)}`--help` lists them"
    if found := _NO_MEMBER.match(message):
        names = [flag.removeprefix(f"--{found[1]}.") for flag in flags]
        near = did_you_mean(found[2], names) or "`--help` lists them"
        return f"{found[1]} has no setting {found[2]!r}: {near}".rstrip()
    reasons = _reasons(message)
    if not reasons:
        return message
    deepest = max(reason.depth for reason in reasons)
    closest = [reason for reason in reasons if reason.depth == deepest]
    key = closest[0].key
    texts = list(dict.fromkeys(reason.text for reason in closest))
    unknown = [text.removeprefix(_NO_PATH) for text in texts if text.startswith(_NO_PATH)]
    if unknown and (len(unknown) == len(texts) or class_of(key)):
        return f"{key}: unknown {unknown[0]!r}: {valid_names(unknown[0], key.rpartition('.')[2])}"
    if literals := [found[1] for text in texts if (found := _LITERAL.match(text))]:
        value = re.search(r"(?:Got|Given) value: (.+)", message)
        given = f" is {value[1]!r}" if value else ""
        words = re.findall(r"'([^']+)'", " ".join(literals))
        near = did_you_mean(value[1].strip("'"), words) if value else ""
        return f"{key}{given}: {near}choose one of {', '.join(literals)}"
    told = " or ".join(text for text in texts if not text.startswith(_NO_PATH))
    told = re.sub(r" or Expected an? ", " or a ", re.sub(r"<class '([^']+)'>", r"\1", told))
    return told if not key or told.startswith(key) else f"{key}: {told}"


def _reasons(message: str) -> list[_Reason]:
    """Return why each type refused the value, with the key that it was given to."""
    reasons: list[_Reason] = []
    keys: list[tuple[int, str]] = []
    class_path = ""
    for line in message.splitlines():
        text = _CALLABLE.sub("", line.strip(" -"))
        depth = len(line) - len(line.lstrip(" -"))
        if found := _KEY.match(text):
            keys = [(above, key) for above, key in keys if above < depth]
            if found[1] not in [key for _, key in keys]:
                keys.append((depth, found[1]))
            text = text[found.end() :]
        if found := _CLASS.search(text):
            class_path = found[1] or found[2]
        text = re.sub(r"\.? Got value: Namespace\(.*", "", text)
        if found := _NO_OPTION.fullmatch(text):
            text = _no_option(found[1], class_path)
        if text and not _FRAME.match(text):
            reasons.append(_Reason(depth, ".".join(key for _, key in keys), text))
    return reasons


def _near_flag(flag: str, flags: Collection[str]) -> str:
    """Return which flag was meant, or of a class's argument, which part of the run."""
    if near := did_you_mean(flag, flags):
        return near
    part, dot, rest = flag.partition(".")
    parts = {known.partition(".")[0] for known in flags}
    near = did_you_mean(part, sorted(parts)) if dot else ""
    return near.replace("'? ", f".{rest}'? ")


def _no_option(name: str, class_path: str) -> str:
    """Return what to say of an argument that a class does not take."""
    if not class_path:
        return f"there is no setting {name!r}"
    try:
        taken = [action.dest for action in parameters_of(resolve_name(class_path))]
    except (ImportError, AttributeError, ValueError):
        return f"there is no {name!r}"
    known = [dest for dest in taken if dest != "help"]
    owner = class_path.rpartition(".")[2]
    near = did_you_mean(name, known) or f"it takes {', '.join(known)}"
    return f"{owner} has no argument {name!r}: {near}".rstrip()


def valid_names(name: str, key: str) -> str:
    """Return which class an argument ``key`` was to be given, and which there are."""
    base = CHOICES.get(key)
    if base is None:
        many = class_of(key)
        near = did_you_mean(name, [cls.__name__ for cls in _subclasses(many)] if many else ())
        return f"{near}give a class name of a plugin, or its full import path"
    names = sorted(
        cls.__name__
        for cls in _subclasses(base)
        if not cls.__name__.startswith("_")
        and not getattr(cls, "__abstractmethods__", None)
        and not cls.__module__.startswith(("lightning.", "torchmetrics.", "ntdh_bench.stacks."))
    )
    return f"{did_you_mean(name, names)}choose one of {', '.join(dict.fromkeys(names))}"


def class_of(key: str) -> type | None:
    """Return what an argument of this name takes a subclass of, if it is one that takes a class."""
    last = key.rpartition(".")[2]
    return CHOICES.get(last) or MANY.get(last.rpartition("_")[2])


def _subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return direct + [cls for child in direct for cls in _subclasses(child)]
