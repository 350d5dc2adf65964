"""Text, JSON and YAML."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import AGAIN, read_bytes

_MAX_TEXT = 1 << 24
_MAX_CONFIG = 1 << 20
_MAX_VALUES = 200_000
_MAX_DEPTH = 60
_PLAIN = (str, int, float, bool, type(None))


def read_text(path: Path, max_bytes: int = _MAX_TEXT, remedy: str = AGAIN) -> str:
    """Return the text of a UTF-8 file; a byte order mark at its start is left out.

    Raises:
        FileError: it is missing, too large, or not UTF-8.
    """
    content = read_bytes(path, max_bytes, remedy)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path}: not UTF-8 text (byte {error.start} of {len(content)}); {remedy}"
        ) from None


def read_json(path: Path, max_bytes: int = _MAX_TEXT, remedy: str = AGAIN) -> Any:
    """Return the value in a JSON file; NaN and infinity are no JSON.

    Raises:
        FileError: it is missing, too large, not JSON, or nested too deeply.
    """
    return parse_json(read_text(path, max_bytes, remedy), str(path), remedy)


def parse_json(text: str, name: str, remedy: str = AGAIN) -> Any:
    """Return the value of a JSON text, as :func:`read_json` does; ``name`` says whose it is."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FileError(f"{name}: not JSON ({where}); {remedy}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise FileError(f"{name}: not JSON ({type(error).__name__}); {remedy}") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond double precision")
    return value


def read_yaml(path: Path, max_bytes: int = _MAX_CONFIG, remedy: str = "mend the file") -> Any:
    """Return the value in a YAML file: mappings with text as keys, lists, text, numbers.

    Raises:
        FileError: it is missing, too large, not YAML, has a tag or a key twice, holds itself or
            something else than plain values (a date, say), or more than 200,000 of them.
    """
    return parse_yaml(read_text(path, max_bytes, remedy), str(path), remedy)


def parse_yaml(text: str, name: str, remedy: str) -> Any:
    """Return the value of a YAML text, as :func:`read_yaml` does; ``name`` says whose it is."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        what = "a key is given twice" if isinstance(error, _TwiceError) else "not valid YAML"
        what = "a tag, which is not allowed" if isinstance(error, _TagError) else what
        raise FileError(f"{name}: {what}{where}; {remedy}") from None
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:
        raise FileError(f"{name}: not valid YAML ({type(error).__name__}); {remedy}") from None
    if wrong := not_plain(value):
        raise FileError(f"{name}: {wrong}; {remedy}")
    return value


class _TwiceError(yaml.constructor.ConstructorError):
    """A key is given twice: the first value would be lost without a word."""


class _TagError(yaml.constructor.ConstructorError):
    """A tag such as ``!!python/object``."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, without dates, tags and repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that is given twice (hook of PyYAML)."""
        keys = [key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str"]
        if len(set(keys)) != len(keys):
            raise _TwiceError(None, None, "a key is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _refuse_tag(loader: Any, node: Any) -> Any:
    raise _TagError(None, None, "a tag", node.start_mark)


_Loader.add_constructor(None, _refuse_tag)
# YAML 1.1, which PyYAML reads, takes 1e-3 and 1.5e3 for text; the command line's parser does not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def not_plain(value: Any) -> str | None:
    """Return what keeps a loaded value from being a config, None if nothing does.

    What is shared counts wherever it stands: some text of a few lines unfolds to more than fits.
    """
    left = _MAX_VALUES
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        left -= 1
        if not left or depth > _MAX_DEPTH:
            return f"more than {_MAX_VALUES} values or {_MAX_DEPTH} levels, or it holds itself"
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return "a key that is no text: put it in quotes"
            waiting += [(below, depth + 1) for below in item.values()]
        elif isinstance(item, list):
            waiting += [(below, depth + 1) for below in item]
        elif not isinstance(item, _PLAIN):
            return f"a {type(item).__name__}, which is no text or number: put it in quotes"
    return None
