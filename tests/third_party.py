"""Third-party code that is edited while tests run."""

from __future__ import annotations

import importlib

from ntdh_bench import composition, experiments, provenance, run_hash


def forget_code() -> None:
    """Look at the files of third-party code again, as another process would."""
    importlib.invalidate_caches()
    for module in (provenance, composition, run_hash, experiments):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
