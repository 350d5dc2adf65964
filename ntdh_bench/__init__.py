"""ntdh-bench: benchmarks of cross-modal knowledge distillation under the NTDH."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.startup import import_less

__version__ = "0.1.0"

# In a checkout `datamodules/`, `models/` and `configs/` lie beside this folder, not in it as in an
# installed copy; without this, running from the repository root would find half a package.
_here = Path(__file__).resolve().parent
if not (_here / "models").is_dir() and (_here.parent / "pyproject.toml").is_file():
    __path__.append(str(_here.parent))

import_less()
