"""What jsonargparse says of a wrong argument, a tree of the types that were tried, as one line."""

from __future__ import annotations

import re
from typing import NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule

from ntdh_bench.distillers import Distiller
from ntdh_bench.interventions import Intervention
from ntdh_bench.masks import Mask

CHOICES: dict[str, type] = {
    "model": LightningModule,
    "data": LightningDataModule,
    "distiller": Distiller,
    "intervention": Intervention,
    "mask": Mask,
}

_FRAME = re.compile(
    r"Given value|Subtypes: |Errors:$|Does not validate against|Expected a path but "
    r"|Subclass types expect one of:|a class path \(str\)$|a dict with(out)? "
    r"|Problem with given class_path '[^']+':$|Expected a <class 'NoneType'>"
)
_KEY = re.compile(r'Parser key "([^"]+)":? *')
_CALLABLE = re.compile(r"Type \S*Callable\[.*?\] expects a function or a callable class: ")
_NO_PATH = "Expected a dot import path string: "
_LITERAL = re.compile(r"Expected a typing\.Literal\[(.+?)\]")


class _Reason(NamedTuple):
    depth: int
    key: str
    text: str


def explain(message: str) -> str:
    """Return the key and why its value was refused: by the type that came closest.

    A class that was found and has a complaint of its own comes closer than types of another kind.
    """
    reasons = _reasons(message)
    if not reasons:
        return message
    deepest = max(reason.depth for reason in reasons)
    closest = [reason for reason in reasons if reason.depth == deepest]
    key = closest[0].key
    texts = list(dict.fromkeys(reason.text for reason in closest))
    unknown = [text.removeprefix(_NO_PATH) for text in texts if text.startswith(_NO_PATH)]
    if len(unknown) == len(texts):
        return f"{key}: unknown {unknown[0]!r}{_valid(key.rpartition('.')[2])}"
    if literals := [found[1] for text in texts if (found := _LITERAL.match(text))]:
        value = re.search(r"(?:Got|Given) value: (.+)", message)
        given = f" is {value[1]!r}" if value else ""
        return f"{key}{given}: choose one of {', '.join(literals)}"
    told = " or ".join(text for text in texts if not text.startswith(_NO_PATH))
    told = re.sub(r" or Expected an? ", " or a ", re.sub(r"<class '([^']+)'>", r"\1", told))
    return told if not key or told.startswith(key) else f"{key}: {told}"


def _reasons(message: str) -> list[_Reason]:
    """Return why each type refused the value, with the key that it was given to."""
    reasons: list[_Reason] = []
    keys: list[tuple[int, str]] = []
    for line in message.splitlines():
        text = _CALLABLE.sub("", line.strip(" -"))
        depth = len(line) - len(line.lstrip(" -"))
        if found := _KEY.match(text):
            keys = [(above, key) for above, key in keys if above < depth]
            if found[1] not in [key for _, key in keys]:
                keys.append((depth, found[1]))
            text = text[found.end() :]
        text = re.sub(r"\.? Got value: Namespace\(.*", "", text)
        if text and not _FRAME.match(text):
            reasons.append(_Reason(depth, ".".join(key for _, key in keys), text))
    return reasons


def _valid(key: str) -> str:
    base = CHOICES.get(key)
    if base is None:
        return ": give a class name of a plugin, or its full import path"
    names = sorted(
        cls.__name__
        for cls in _subclasses(base)
        if not cls.__name__.startswith("_")
        and not getattr(cls, "__abstractmethods__", None)
        and not cls.__module__.startswith(("lightning.", "torchmetrics."))
    )
    return f": choose one of {', '.join(dict.fromkeys(names))}"


def _subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return direct + [cls for child in direct for cls in _subclasses(child)]
