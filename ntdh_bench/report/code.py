"""Which code and which papers make the report. Nothing of them is imported for that."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, version
from importlib.util import find_spec
from pathlib import Path

from ntdh_bench.cache import digest, file_digest
from ntdh_bench.plugins import registered
from ntdh_bench.provenance import code_of

GROUP = "ntdh_bench.papers"
_ENGINE = Path(__file__).parents[1]
_LIBRARIES = ("numpy", "scipy", "matplotlib")


@cache
def code_digest() -> str:
    """Return 16 hex digits of this package's code, of plug-ins' papers and of what both compute on.

    Read once a process: what runs is what was there at first.
    """
    files = sorted(path for kind in ("py", "css", "js") for path in _ENGINE.rglob(f"*.{kind}"))
    named = [entry.value.replace(":", ".") for entry in registered(GROUP).values()]
    return digest(
        [
            {str(path.relative_to(_ENGINE)): file_digest(path) for path in files},
            {name: version(name) for name in _LIBRARIES},
            code_of(named),
        ]
    )


def paper_digests() -> dict[str, str]:
    """Return 16 hex digits, by name, of each paper's place and of the YAML files beside it."""
    return {name: _paper_digest(entry) for name, entry in registered(GROUP).items()}


def _paper_digest(entry: EntryPoint) -> str:
    try:
        spec = find_spec(entry.module)
    except (ImportError, AttributeError):  # loading it will say so
        spec = None
    in_package = spec is not None and spec.parent and spec.origin
    files = sorted(Path(str(spec.origin)).parent.glob("*.yaml")) if spec and in_package else []
    return digest([entry.value, {path.name: file_digest(path) for path in files}])
