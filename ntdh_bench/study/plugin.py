"""The study as part of the report: entry point of ``ntdh_bench.studies``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ntdh_bench.records.columns import Row
from ntdh_bench.report.cells import MixedRuns
from ntdh_bench.report.studies import Added
from ntdh_bench.study import texts
from ntdh_bench.study.claims import primary_claims, secondary
from ntdh_bench.study.curves import dose_curves
from ntdh_bench.study.drawings import readme_figure
from ntdh_bench.study.guide import make_guide
from ntdh_bench.study.page import front
from ntdh_bench.study.power import powers
from ntdh_bench.study.results import Study
from ntdh_bench.study.rivals import rivals
from ntdh_bench.study.sensitivity import sensitivities


def add(rows: Sequence[Row]) -> Added:
    """Return the files of the study of these rows, and what the page opens on."""
    study = _unmixed(rows)
    files = {
        "study.md": texts.markdown(study),
        "study.csv": texts.claims_csv(study),
        "study_curves.csv": texts.curves_csv(study.curves),
        "study_guide.csv": texts.guide_csv(study.guide),
    }
    drawing = readme_figure(study)
    figures = {"figures/study.svg": drawing} if drawing else {}
    return Added(files | figures, front(study, tuple(files)), study.left_out)


def _unmixed(rows: Sequence[Row]) -> Study:
    """Return the study without the protocols in which two runs of a seed stand in one place."""
    kept = list(rows)
    left_out: list[str] = []
    while True:
        try:
            return replace(make_study(kept), left_out=tuple(left_out))
        except MixedRuns as error:
            mixed = {_place(row) for row in error.rows}
            kept = [row for row in kept if _place(row) not in mixed]
            left_out += [
                f"the study: {experiment}, protocol {protocol}: {error}: left out"
                for experiment, protocol in sorted(mixed)
            ]


def _place(row: Row) -> tuple[str, str]:
    return str(row["experiment"]), str(row["protocol"])


def make_study(rows: Sequence[Row]) -> Study:
    """Return what the study finds in these rows, which need not be complete."""
    claims = primary_claims(rows)
    return Study(
        claims=claims,
        rehearsal=primary_claims(rows, "simulated"),
        curves=dose_curves(rows),
        guide=make_guide(rows),
        sensitivity=sensitivities(rows),
        rivals=rivals(rows),
        power=powers(claims),
        secondary=secondary(rows),
    )
