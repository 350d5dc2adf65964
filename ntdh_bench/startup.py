"""Imports at the start of a process: half of what they cost is for nothing that runs here."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import LazyLoader
from threading import RLock
from types import ModuleType
from typing import Any

_METRICS = "torchmetrics"


def import_once(name: str) -> ModuleType:
    """Import a module without looking for garbage among what is imported, then or later."""
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def import_less() -> None:
    """Let ``import torchmetrics`` import what Lightning takes of it, the rest when it is used.

    Its package imports every metric, and for those torchvision, scipy and others, which takes as
    long as torch; no setting leaves them out. All names are there as always.
    """
    if _METRICS not in sys.modules:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    """Finds one package, and has it loaded in two steps."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _METRICS else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(LazyLoader):
    """The standard library's, but that submodules can be imported without executing the package."""

    loader: SourceFileLoader

    def exec_module(self, module: ModuleType) -> None:
        """Give the module what Lightning takes of it, and its submodules their log."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        vars(module)["_logger"] = logging.getLogger(_METRICS)
        import_module(f"{_METRICS}.utilities")  # first: it and the two classes are in a circle
        for part, names in {
            "__about__": import_module(f"{_METRICS}.__about__").__all__,
            "collections": ["MetricCollection"],
            "metric": ["Metric"],
        }.items():
            taken = import_module(f"{_METRICS}.{part}")
            vars(module).update((name, getattr(taken, name)) for name in names)
        code = self.loader.get_code(_METRICS)
        vars(module)["_left"] = frozenset(code.co_names if code is not None else ())
        module.__class__ = _Light


class _Light(ModuleType):
    """A package that is executed when one of the names is asked for that it then has."""

    _lock = RLock()
    _left: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if name in vars(self).get("_left", ()):
                names = vars(self).pop("_left")  # what asks meanwhile gets what is there
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                except BaseException:
                    self._left = names
                    raise
        return super().__getattribute__(name)
