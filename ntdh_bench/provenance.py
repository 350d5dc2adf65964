"""Which code a run depends on that is not this package's own, and which commits it is from.

A config names code by its import path, or by the short name of a plug-in's class. Code of this
package and of the libraries that it is built on adds nothing to what a run is: the record holds
their versions. Of other code, what was installed from an index counts by distribution and version,
and everything else by the content of its module and of all that this imports.

Nothing is imported for that, torch least of all; and no file is read twice in a process, so that an
edit meanwhile cannot give one run two identities.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, distributions, entry_points
from importlib.util import resolve_name, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import ntdh_bench
from ntdh_bench.cache import digest
from ntdh_bench.errors import UserError

OWN = "ntdh-bench"
# Import names of this package and of what it depends on.
_GIVEN = frozenset({
    "ntdh_bench", "torch", "torchvision", "torchaudio", "torchmetrics", "lightning",
    "pytorch_lightning", "lightning_fabric", "jsonargparse", "sklearn", "numpy", "scipy",
    "tensorboard", "rich", "matplotlib", "PIL", "librosa", "soundfile", "av", "h5py", "filelock",
    "platformdirs", "yaml", "argcomplete", "packaging",
})  # fmt: skip
# Its folders whose classes configs name.
_NAMED = ("datamodules", "distillers", "masks", "models", "paper")
_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
_LONGEST = 300  # characters of an import path
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_PROJECT_NAME = re.compile(r"""^\[project\]$.*?^name\s*=\s*["']([^"']+)["']""", re.M | re.S)


class _Module(NamedTuple):
    """What the source of a module says."""

    digest: str
    imports: tuple[str, ...]
    classes: frozenset[str]


# -- what a run is -------------------------------------------------------------------------------


def code_of(plain: Any) -> dict[str, str]:
    """Return the third-party code that a config names, at any depth: name to digest.

    The digest of code from an index is its distribution and version; of what was written in a
    notebook, of all that it ran so far. What cannot be found has none: importing it will fail.

    Raises:
        UserError: code was typed at a prompt, which keeps none.
    """
    found = {
        name: _typed_digest(name) if _is_typed(name) else _code_digest(name)
        for name in sorted(_texts(plain))
    }
    return {name: value for name, value in found.items() if value}


def named_in(plain: Any, code: Mapping[str, str]) -> dict[str, str]:
    """Return the part of ``code`` that a config, or a part of one, names."""
    texts = _texts(plain)
    return {name: value for name, value in code.items() if name in texts}


def _texts(plain: Any) -> set[str]:
    if isinstance(plain, str):
        return {plain}
    if isinstance(plain, Mapping):
        plain = plain.values()
    elif not isinstance(plain, (list, tuple)):
        return set()
    return {text for item in plain for text in _texts(item)}


@cache
def _code_digest(name: str) -> str | None:
    module = _module_of(name)
    if module is None:
        return None
    if release := _release(module):
        return " ".join(release)
    return digest(_digests(module))


def _digests(module: str) -> dict[str, str]:
    """Return what importing a module runs: distribution to version, or module to digest."""
    reachable = _reachable(module, lambda found: _release(found) is None)
    return dict(_release(found) or (found, _source(found).digest) for found in reachable)


def _is_typed(name: str) -> bool:
    """Return whether a name is of a notebook's or a prompt's own, which have no file."""
    return name.startswith("__main__.") and not hasattr(sys.modules["__main__"], "__file__")


def _typed_digest(name: str) -> str:
    cells: list[str] | None = getattr(sys.modules["__main__"], "In", None)  # IPython's
    if cells is None:
        raise UserError(
            f"{name} was typed at a prompt, which keeps no code, but a run is named by its code: "
            "put it into a file"
        )
    found: dict[str, Any] = {"cells": cells}
    for cell in cells:
        with suppress(SyntaxError):  # of a cell that could not run either
            for module in _imports(ast.parse(cell), ""):
                found |= _digests(module)
    return digest(found)


# -- finding modules -----------------------------------------------------------------------------


@cache
def _module_of(name: str) -> str | None:
    """Return the third-party module that has the class or function called ``name``."""
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        return None
    if "." not in name:
        return _plugin_classes().get(name)
    modules = [part for part in _parts(name)[:-1] if _has_code(part)]
    return modules[-1] if modules else None


@cache
def _plugin_classes() -> dict[str, str]:
    """Return the classes of plug-ins, which have short names, and the modules they are from."""
    found: dict[str, str] = {}
    for plugin in entry_points(group="ntdh_bench.plugins"):
        for module in _reachable(plugin.module, partial(_share_top, plugin.module)):
            for name in _source(module).classes:
                found.setdefault(name, module)
    own = _own_classes() if found else ()
    return {name: module for name, module in found.items() if name not in own}


def _own_classes() -> set[str]:
    """Return this package's classes that have short names: a plug-in's of that name has none."""
    folders = (Path(place) / name for place in ntdh_bench.__path__ for name in _NAMED)
    files = (path for folder in folders for path in folder.rglob("*.py"))
    return {name for path in files for name in _CLASS.findall(path.read_text(encoding="utf-8"))}


def _share_top(module: str, other: str) -> bool:
    return _parts(module)[0] == _parts(other)[0]


def _reachable(start: str, follow: Callable[[str], bool]) -> list[str]:
    """Return the third-party modules that importing ``start`` runs, itself included.

    The imports of a module count where ``follow`` says so.
    """
    found: dict[str, None] = {}
    pending = [start]
    while pending:
        for module in _parts(pending.pop()):
            if module not in found and _has_code(module):
                found[module] = None
                if follow(module):
                    pending += _source(module).imports
    return list(found)


def _parts(name: str) -> list[str]:
    """Return ``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    words = name.split(".")
    return [".".join(words[: number + 1]) for number in range(len(words))]


@cache
def _has_code(module: str) -> bool:
    """Return whether there is such a module, third-party and with a file."""
    if _parts(module)[0] in _GIVEN:
        return False
    spec = _spec(module)
    return spec is not None and spec.has_location and not _is_standard(Path(str(spec.origin)))


def _is_standard(file: Path) -> bool:
    """Return whether a file is the standard library's: a user's may have the same name."""
    places = sysconfig.get_paths()
    standard, installed = (
        any(file.is_relative_to(places[name]) for name in names)
        for names in (("stdlib", "platstdlib"), ("purelib", "platlib"))
    )
    return standard and not installed


@cache
def _spec(module: str) -> ModuleSpec | None:
    """Find a module as ``import`` would, without importing what is above it."""
    if module == "__main__":
        file = getattr(sys.modules[module], "__file__", None)
        return spec_from_file_location(module, file) if file else None
    above, _, _ = module.rpartition(".")
    if not above:
        # A command that was installed does not look into the working folder, `python -m` does.
        return _find(module, None) or PathFinder.find_spec(module, [str(Path.cwd())])
    parent = _spec(above)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return _find(module, list(parent.submodule_search_locations))


def _find(module: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module, path)
        except (ImportError, AttributeError, ValueError):
            continue
        if spec is not None:
            return spec
    return None


@cache
def _source(module: str) -> _Module:
    spec = _spec(module)
    assert spec is not None
    try:
        content = spec.loader.get_data(spec.origin)  # type: ignore[union-attr]
    except (OSError, AttributeError):
        content = Path(str(spec.origin)).read_bytes()
    lines = content.replace(b"\r\n", b"\n")
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # compiled, or to be refused when it is imported
        tree = ast.Module([], [])
    classes = frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    return _Module(hashlib.sha256(lines).hexdigest(), imports, classes)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules that code may import, wherever in it; some are names inside a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names if base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            yield from (_absolute(str(name), package) for name in names)


def _absolute(name: str, package: str) -> str:
    """Return the full name of an imported module; empty if it lies above the top package."""
    try:
        return resolve_name(name, package)
    except ImportError:
        return ""


# -- distributions and commits -------------------------------------------------------------------


def plugins(code: Mapping[str, str]) -> list[dict[str, str | None]]:
    """Return where third-party code is from, for the record.

    Args:
        code: from :func:`code_of`.

    Returns:
        For each name: ``name``, ``digest``, and ``distribution``, ``version`` and ``commit`` where
        it has them.
    """
    return [{"name": name, "digest": value, **_origin(name)} for name, value in code.items()]


def _origin(name: str) -> dict[str, str | None]:
    module = _module_of(name)
    if module is None:  # a config written by hand may name what is not here
        return {"distribution": None, "version": None, "commit": None}
    file = _file(module)
    owner = _installer_of(file) or _editable(file)
    if owner is None:
        return {"distribution": None, "version": None, "commit": _checkout_commit(file, None)}
    commit = _checkout_commit(file, owner.name) or _noted_commit(owner)
    return {"distribution": owner.name, "version": owner.version, "commit": commit}


def own_commit() -> str | None:
    """Return the commit of this package, ``+`` if the checkout it runs from was changed.

    ``None`` for a copy that is no checkout of its own, whatever repository it lies in, unless its
    installer noted the commit.
    """
    file = Path(__file__).resolve()
    owner = _installer_of(file)
    return _checkout_commit(file, OWN) or (_noted_commit(owner) if owner else None)


@cache
def _checkout_commit(file: Path, project: str | None) -> str | None:
    """Return the commit of the repository that tracks a file, if it is the checkout of a project.

    Args:
        file: of the project.
        project: name of the distribution that the repository must be of; ``None``: any.
    """
    top = _git(file.parent, "rev-parse", "--show-toplevel")
    if not top or _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    if project and not _is_project(Path(top), project):
        return None
    return _git(file.parent, "describe", "--always", "--dirty=+", "--abbrev=12")


def _is_project(folder: Path, name: str) -> bool:
    try:
        found = _PROJECT_NAME.search((folder / "pyproject.toml").read_text())
    except (OSError, UnicodeDecodeError):
        return False
    return found is not None and _normal(found[1]) == _normal(name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _git(folder: Path, *words: str) -> str | None:
    """Return the output of a git command, ``None`` if it failed."""
    # Inside a hook these name the repository of the hook.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=own
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _release(module: str) -> tuple[str, str] | None:
    """Return distribution and version of a module that an index's file installed, if one did.

    What was installed from a folder or a repository may change under the same version.
    """
    owner = _installer_of(_file(module))
    if owner is None or _direct_url(owner):
        return None
    return owner.name, owner.version


def _file(module: str) -> Path:
    spec = _spec(module)
    assert spec is not None
    return Path(str(spec.origin)).resolve()


def _installer_of(file: Path) -> Distribution | None:
    """Return the distribution whose installer put a file where it is."""
    for folder in {Path(entry).resolve() for entry in sys.path}:
        if file.is_relative_to(folder):
            found = _installed(folder).get(file.relative_to(folder).as_posix())
            if found is not None:
                return found
    return None


@cache
def _installed(folder: Path) -> dict[str, Distribution]:
    """Return the files that distributions put into a folder that Python imports from."""
    return {
        line[0]: found
        for found in distributions(path=[str(folder)])
        for line in csv.reader((found.read_text("RECORD") or "").splitlines())
        if line
    }


def _editable(file: Path) -> Distribution | None:
    """Return the distribution that was installed, editable, from a folder above a file."""
    folders = _editable_folders()
    return next((folders[folder] for folder in file.parents if folder in folders), None)


@cache
def _editable_folders() -> dict[Path, Distribution]:
    origins = ((_direct_url(found), found) for found in distributions())
    return {
        Path(url2pathname(urlparse(origin["url"]).path)).resolve(): found
        for origin, found in origins
        if origin.get("dir_info", {}).get("editable")
    }


def _noted_commit(found: Distribution) -> str | None:
    commit = _direct_url(found).get("vcs_info", {}).get("commit_id")
    return str(commit)[:12] if commit else None


def _direct_url(found: Distribution) -> dict[str, Any]:
    """Return what an installer noted of a distribution that is from no index (PEP 610)."""
    text = found.read_text("direct_url.json")
    return dict(json.loads(text)) if text else {}
