"""Made-up rows for tests of the report: every experiment, with a known truth behind the numbers.

The truth: students lose 20 points of accuracy per nat of NCJSD, whatever the TCJSD; NCJSD grows
with the gap and with the mask that removes the least divergent features, and shrinks with the one
that removes the most divergent. So the hypothesis holds here by construction.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ntdh_bench.cache import digest
from ntdh_bench.records import older
from ntdh_bench.records.columns import COLUMNS, METRICS, Row, blank_row
from ntdh_bench.records.details import details_path
from ntdh_bench.records.rows import csv_path, write_rows
from ntdh_bench.report.evidence import derived
from ntdh_bench.report.pairing import Controls, scored

METHODS = ("FitNet", "CRD", "RKD", "PKT", "SP", "DKD")
REMOVES = ("most_divergent", "random", "least_divergent")
GAPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
MAP_SIDE = 28
RUN = "0123456789abcdef"

_SHIFT = {None: 0.0, "most_divergent": -0.06, "random": 0.01, "least_divergent": 0.08}
_DENSE = ("semantickitti", "nyuv2")
_STUDENT = ("dataset", "protocol", "source", "gap", "classes", "unimodal", "student_noise", "seed")
_AXES = (
    "dataset", "gap", "classes", "teacher_noise", "unimodal", "modality", "teacher_epochs", "arm",
    "method", "alpha", "beta", "layer", "removes", "ratio",
)  # fmt: skip
_BLANK = blank_row()
_ENVIRONMENT: Row = {
    "seconds": 12.5,
    "device": "x86_64 CPU",
    "threads": 1,
    "git_commit": "0123456789ab",
    "ntdh_bench": "0.1.0",
    "python": "3.12.1",
    "torch": "2.14.1",
    "lightning": "2.6.6",
    "torchmetrics": "1.8.0",
    "numpy": "2.4.6",
    "scikit_learn": "1.8.0",
}


def make_row(**given: Any) -> Row:
    """Return one row: what is given, and metrics that follow the truth with a little noise."""
    row = {
        **_BLANK,
        "created": "2026-11-22T22:07:22+00:00",
        "dataset": "mnist",
        "source": "real",
        "arm": "kd",
        "method": "KD",
        "teacher": "joint",
        "unimodal": False,
        "classes": 10,
        "alpha": 1.0,
        "beta": 1.0,
        "task_weight": 0.5,
        "distill_weight": 0.5,
        "seed": 0,
        "epochs": 50,
        "teacher_parameters": 535818,
        "student_parameters": 535818,
        "teacher_hash": "feedfeedfeedfeed",
        **given,
    }
    if row["arm"] != "kd":
        row["method"] = None
        row["task_weight"], row["distill_weight"] = (2.0 if row["arm"] == "matched" else 1.0), 0.0
    if row["method"] not in ("WeightedKL", "DKD"):
        row["alpha"] = row["beta"] = None
    row["data_fingerprint"] = digest([row["dataset"], row["source"], row["seed"]])
    row["run"] = digest(row)
    row["config_hash"] = row["run"]
    row["baseline_hash"] = digest([row[name] for name in _STUDENT])
    row["measure"] = "miou" if row["dataset"] in _DENSE else "accuracy"
    row = placed(row)
    return scored({**row, **_metrics(row), **_ENVIRONMENT})


def placed(row: Row) -> Row:
    """Return a row with the cell and the hashes that its settings give it."""
    return {**row, **older._by_columns(row, _AXES)._asdict()}


def bare_row(**given: Any) -> Row:
    """Return a row of which nothing is known but what is given, and where that places it."""
    return placed({**scored(_BLANK), **given})


def with_derived(rows: list[Row]) -> list[Row]:
    """Rows with what tables and figures compute from them."""
    controls = Controls(rows)
    return [derived(row, controls) for row in rows]


def _metrics(row: Row) -> Row:
    noise = random.Random(f"{row['run']}")
    common = random.Random(f"{row['dataset']}{row['seed']}").gauss(0, 0.004)  # the seed's own
    ncjsd = 0.20 + 0.15 * (row["gap"] or 0.0) + _shift(row) + noise.gauss(0, 0.003)
    ncjsd = max(0.01, 0.01 if row["unimodal"] else ncjsd)
    student = row["baseline_hash"] if row["arm"] == "without_kd" else row["run"]  # no mask moves it
    accuracy = 0.69 + common + random.Random(student).gauss(0, 0.003)
    if row["arm"] == "matched":
        accuracy += 0.01
    if row["arm"] == "kd":
        accuracy += 0.03 - 0.2 * ncjsd * (row["beta"] or 1.0) ** 0.5
        ncjsd *= 0.6  # distilling draws the student to the teacher
    tcjsd = 0.05 + noise.gauss(0, 0.002)
    nckl, tckl = 3 * ncjsd * (row["classes"] - 1) / 9, 0.06 + noise.gauss(0, 0.002)
    values: Row = {
        "accuracy": accuracy,
        "teacher_accuracy": 0.70 + common - (row["ratio"] or 0.0) ** 2 * 0.05,
        "tcjsd": tcjsd,
        "ncjsd": ncjsd,
        "kl": tckl + 0.4 * nckl,
        "tckl": tckl,
        "tckl_size": abs(tckl),
        "tckl_binary": tckl + 0.01,
        "nckl": nckl,
    }
    if row["arm"] in ("single", "saliency"):
        values = {"accuracy": values["accuracy"] + (0.004 if row["modality"] == "teacher" else 0)}
    if row["dataset"] in _DENSE:  # judged by mIoU
        values = {name.replace("accuracy", "miou"): value for name, value in values.items()}
    return {
        f"{when}_{split}_{name}": values.get(name) if _has(row, when, split) else None
        for when in ("last", "best")
        for split in ("val", "test")
        for name in METRICS
    }


def _shift(row: Row) -> float:
    """The mask's share of the divergence: strongest at a half."""
    ratio = row["ratio"] or 0.0
    return _SHIFT[row["removes"]] * 4 * ratio * (1 - ratio)


def _has(row: Row, when: str, split: str) -> bool:
    """The paper's synthetic protocol has no validation split, and so no best epoch."""
    return row["protocol"] != "synthetic_paper" or (when == "last" and split == "test")


def masks(ratios: Sequence[float], layer: str, mask: str = "feature") -> Iterator[Row]:
    """No mask, then every (ratio, removes)."""
    yield {}
    for ratio in ratios:
        for removes in REMOVES:
            yield {"mask": mask, "removes": removes, "ratio": ratio, "layer": layer}


def table2(seeds: int, protocol: str = "mnist", source: str = "real") -> list[Row]:
    """Methods x masks with their controls, and the matched control."""
    rows = []
    base: Row = {"experiment": "table2", "protocol": protocol, "source": source}
    for seed in range(seeds):
        rows.append(make_row(**base, seed=seed, arm="matched"))
        for mask in masks((0.25, 0.5, 0.75), "hidden1"):
            rows.append(make_row(**base, **mask, seed=seed, arm="without_kd"))
            rows += [make_row(**base, **mask, seed=seed, method=method) for method in METHODS]
    return rows


def table1(seeds: int) -> list[Row]:
    return [
        make_row(
            experiment="table1",
            protocol=protocol,
            dataset=dataset,
            source=source,
            arm="single",
            modality=modality,
            seed=seed,
            student_parameters=parameters,
            teacher_parameters=None,
        )
        for dataset, protocol, source, parameters in (
            ("mnist", "mnist", "real", 535818),
            ("synthetic", "synthetic_paper", "simulated", 1156),
        )
        for modality in ("teacher", "student")
        for seed in range(seeds)
    ]


def _synthetic(experiment: str, protocol: str = "synthetic_converged", **given: Any) -> Row:
    classes = given.pop("classes", 4)
    return make_row(
        experiment=experiment,
        protocol=protocol,
        dataset="synthetic",
        source="simulated",
        classes=classes,
        **given,
    )


def synthetic(seeds: int) -> list[Row]:
    """Fig. 3, 6 and 8, unimodal, Eq. 18 and 25, on synthetic data."""
    rows = []
    arms = ("kd", "without_kd")
    for seed in range(seeds):
        for gap in GAPS:
            at: Row = {"seed": seed, "gap": gap, "teacher": "independent"}
            for arm in arms:
                rows += [
                    _synthetic("fig3", protocol, arm=arm, **at)
                    for protocol in ("synthetic_paper", "synthetic_converged")
                ]
                rows.append(_synthetic("unimodal", arm=arm, **at))
            rows += [_synthetic("eq18", arm=arm, **at) for arm in arms]
            rows.append(_synthetic("fig6", arm="without_kd", **at))
            rows += [
                _synthetic("fig6", method="WeightedKL", alpha=alpha, beta=beta, **at)
                for alpha, beta in weights()
            ]
        for arm in arms:
            rows.append(_synthetic("unimodal", arm=arm, unimodal=True, seed=seed, gap=0.5))
        for gap in (0.5, 0.0):
            for mask in masks([n / 10 for n in range(1, 10)], "input"):
                rows += [
                    _synthetic("fig8", arm=arm, gap=gap, seed=seed, **mask, retrain=False)
                    for arm in arms
                ]
        rows += [_synthetic("eq25", classes=c, gap=1.0, seed=seed) for c in range(3, 11)]
    return rows


def weights() -> list[tuple[float, float]]:
    """(alpha, beta) of Fig. 6 and 7: one varies, the other is 1."""
    return list(dict.fromkeys([(w, 1.0) for w in WEIGHTS] + [(1.0, w) for w in WEIGHTS]))


def mnist(seeds: int) -> list[Row]:
    """Fig. 7a, 9a and 10, teacher accuracy, two teachers."""
    rows = []
    for seed in range(seeds):
        at: Row = {"protocol": "mnist", "seed": seed}
        rows.append(make_row(experiment="fig7a", arm="without_kd", teacher="independent", **at))
        rows += [
            make_row(
                experiment="fig7a",
                method="WeightedKL",
                alpha=a,
                beta=b,
                teacher="independent",
                **at,
            )
            for a, b in weights()
        ]
        for mask in masks([n / 10 for n in range(1, 10)], "hidden1"):
            rows += [
                make_row(experiment="fig9a", arm=arm, **mask, **at) for arm in ("kd", "without_kd")
            ]
        rows += [
            make_row(experiment="teacher_accuracy", teacher_noise=noise, **at)
            for noise in (1.0, 2.0, 3.0)
        ]
        rows += [
            make_row(experiment="two_teachers", **mask, **at, arm=arm)
            for mask in list(masks((0.25,), "hidden1"))[:2]
            for arm in ("kd", "without_kd")
        ]
    rows.append(
        make_row(experiment="fig10", protocol="mnist", arm="saliency", layer="hidden1", ratio=0.25)
    )
    return rows


def semantickitti(seeds: int, source: str = "simulated") -> list[Row]:
    """Table IV: two methods of their own kind, which have no run without KD."""
    base: Row = {"dataset": "semantickitti", "protocol": "small", "source": source, "classes": 20}
    rows = [
        make_row(experiment="table4", method=method, seed=seed, **base, **{**mask, "layer": None})
        for method in ("PMF", "2DPASS")
        for mask in masks((0.25,), "", "sample")
        for seed in range(seeds)
    ]
    return [*rows, make_row(experiment="fig12", arm="saliency", **base)]


def smoke() -> list[Row]:
    return [
        make_row(experiment="smoke", protocol="smoke", source="simulated", seed=seed, arm=arm)
        for seed in range(2)
        for arm in ("kd", "without_kd")
    ]


def all_rows(seeds: int = 5) -> list[Row]:
    """Rows of every experiment that can run today; about 480 per seed."""
    short = min(seeds, 3)
    return [
        *table1(seeds),
        *table2(seeds),
        *table2(short, "mnist_short", "simulated"),
        *synthetic(seeds),
        *mnist(seeds),
        *semantickitti(short),
        *smoke(),
    ]


def map_rows(run: str) -> list[Row]:
    """The heat maps of one run: a bright middle for T, an edge for F, noise for R."""
    noise, side = random.Random(0), MAP_SIDE
    inside = range(side // 4, 3 * side // 4)
    shades = {
        "most_divergent": lambda y, x: float(y in inside and x in inside),
        "least_divergent": lambda y, x: float(not (y in inside and x in inside)),
        "random": lambda y, x: noise.random(),
    }
    return [
        {"run": run, "removes": removes, "y": y, "x": x, "value": shade(y, x)}
        for removes, shade in shades.items()
        for y in range(side)
        for x in range(side)
    ]


def sample_map_rows(run: str) -> list[Row]:
    """Two samples' maps of one run of a dense task, wider than high."""
    return [
        {"run": run, "removes": f"sample {n}, {name}", "y": y, "x": x, "value": x / 12}
        for n in (1, 2)
        for name in ("image", "NCJSD", "share dropped")
        for y in range(4)
        for x in range(12)
    ]


def curve_rows(run: str, epochs: int, level: float) -> list[Row]:
    """Validation NCJSD and TCJSD of one run by epoch."""
    return [
        {
            "run": run,
            "epoch": epoch,
            "metric": metric,
            "value": size * level * (1 + 1 / (1 + epoch)),
        }
        for epoch in range(epochs)
        for metric, size in (("ncjsd", 0.1), ("tcjsd", 0.03))
    ]


def make_record(**given: Any) -> dict[str, Any]:
    """Return the smallest record that is a row: one student without KD."""
    versions = {"ntdh-bench": "0.1.0", "python": "3.12.1", "torch": "2.14.1"}
    return {
        "run": RUN,
        "dataset": "mnist",
        "source": "real",
        "arm": "without_kd",
        "seed": 0,
        "parameters": {"teacher": 1, "student": 1},
        "environment": {"versions": versions, "device": "CPU", "threads": 1, "git_commit": None},
        "config": {"model": {"init_args": {}}, "data": {"init_args": {}}, "mask": None},
        "metrics": {"last": {"test": {"accuracy": 0.5}}, "best": None},
        **given,
    }


def write_results(results: Path, rows: Iterable[Row]) -> None:
    """Write rows as the CSVs of their experiments; maps go with ``fig10`` and ``fig12``."""
    by_experiment: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_experiment[row["experiment"]].append(row)
    for experiment, members in by_experiment.items():
        rows_of_columns = [{name: row[name] for name in COLUMNS} for row in members]
        write_rows(csv_path(results, experiment), rows_of_columns)
    maps = [line for row in by_experiment["fig10"] for line in map_rows(row["run"])]
    _write_details(details_path(csv_path(results, "fig10"), "maps"), maps)
    samples = [line for row in by_experiment["fig12"] for line in sample_map_rows(row["run"])]
    _write_details(details_path(csv_path(results, "fig12"), "maps"), samples)


def _write_details(path: Path, lines: Sequence[Row]) -> None:
    if lines:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
