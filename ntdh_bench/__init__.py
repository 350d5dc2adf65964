"""ntdh-bench: benchmarks of cross-modal knowledge distillation under the NTDH.

::

    import ntdh_bench as nb

    result = nb.fit("mnist_kd", {"data.source": "simulated"})
    loss = nb.distillers.functional.dkd(student_logits, teacher_logits, target)
    nb.divergence.ncjsd(teacher_logits, student_logits, target)

What stands in ``__all__`` is imported when it is first asked for, PyTorch with it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntdh_bench.startup import import_less

if TYPE_CHECKING:
    from ntdh_bench import (
        datamodules,
        distillers,
        divergence,
        interventions,
        masks,
        models,
    )
    from ntdh_bench.api import Result, fit
    from ntdh_bench.errors import UserError

__version__ = "0.2.0"
__all__ = [
    "Result",
    "UserError",
    "datamodules",
    "distillers",
    "divergence",
    "fit",
    "interventions",
    "masks",
    "models",
]
_HOMES = {"Result": "api", "UserError": "errors", "fit": "api"}  # all else is a module

# In a checkout `datamodules/`, `models/` and `configs/` lie beside this folder, not in it as in an
# installed copy; without this, running from the repository root would find half a package.
_here = Path(__file__).resolve().parent
if not (_here / "models").is_dir() and (_here.parent / "pyproject.toml").is_file():
    __path__.append(str(_here.parent))

import_less()

if not TYPE_CHECKING:  # or every name would be one

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_HOMES.get(name, name)}")
        return getattr(module, name) if name in _HOMES else module

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
