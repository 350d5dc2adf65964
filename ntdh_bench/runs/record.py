"""The record of a run, plain values only."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from lightning.pytorch import Trainer

from ntdh_bench import records
from ntdh_bench.masks import FeatureMask
from ntdh_bench.provenance import plugins
from ntdh_bench.runs.run import Run


def make_record(
    run: Run, trainer: Trainer, outcome: dict[str, Any], teacher: str | None, seconds: float
) -> dict[str, Any]:
    """Return the record of a finished run, plain values only.

    Args:
        run: that is finished.
        trainer: of its student.
        outcome: ``epochs``, ``metrics`` and ``curves``, and what else a command measures.
        teacher: where the teacher came from.
        seconds: wall time.
    """
    identity, model = run.identity, run.described
    if isinstance(run.mask, FeatureMask) and run.mask.from_cache:
        run.from_cache["saliency"] = run.mask.from_cache
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "config_hash": records.config_hash(identity),
        "baseline_hash": records.baseline_hash(identity),
        "arm": model.arm or records.arm(identity),
        "method": model.method,
        "seed": identity["seed"],
        "dataset": run.data.name,
        "source": run.data.source,
        "data_fingerprint": run.data.fingerprint,
        "measure": run.data.metric,
        "parameters": model.parameter_counts(),
        **outcome,
        "teacher": teacher,
        "teacher_hash": model.frozen_teacher.hash if model.frozen_teacher else None,
        "from_cache": {
            part: {name: entry[name] for name in ("key", "created")}
            for part, entry in run.from_cache.items()
        },
        "resumed_from": run.checkpoint,
        "seconds": round(seconds, 2),
        "precision": str(trainer.precision),  # a CPU has no float16: bfloat16 runs there
        "environment": records.environment(),
        "plugins": plugins(identity.get("third_party", {})),
        "config": identity,
    }
