"""The exhibits: every table and figure of the paper that holds results, and a few of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ntdh_bench.paper import printed as paper
from ntdh_bench.records.columns import CONTROLS, Row, by_key
from ntdh_bench.report.cells import Where, select
from ntdh_bench.report.evidence import Image
from ntdh_bench.report.gains import remarks, shown_gains
from ntdh_bench.report.layouts import LineSpec, PanelSpec, grouped, table_cell, values
from ntdh_bench.report.papers import SHOWN, Exhibit
from ntdh_bench.report.statistics import mean_ci
from ntdh_bench.report.tables import RATIO, Cell, Column, Line, Table, mark_best

SCORE = "last_test_score"
# The masks as the paper's tables name them.
_MASKS: dict[str, Where] = {
    "w/o mask": {"mask": None},
    **{
        f"{short} {ratio:.2f}": {"removes": removes, "ratio": ratio}
        for ratio in (0.25, 0.5, 0.75)
        for short, removes in paper.REMOVES.items()
    },
}
# The lines of Tables II and III; `equal task` and `matched` are ours.
_METHOD_LINES: dict[str, Where] = {
    "w/o KD": {"arm": "without_kd", "mask": None},
    "equal task": {"arm": "equal_task", "mask": None},
    "matched": {"arm": "matched", "mask": None},
    **{name: {"arm": "kd", **mask} for name, mask in _MASKS.items()},
}
# The classes of ``authors.py``, by the method whose preset they are.
AUTHORS = {f"Authors{name}": name for name in ("KD", "FitNet", "CRD", "RKD", "PKT", "SP", "DKD")}
# Protocols of NYU Depth V2 whose task is not the paper's.
_SEGMENTATION = ("nyuv2_seg", "nyuv2_seg_small")
_DATASETS = {
    "ravdess": "RAVDESS",
    "synthetic": "Scikit-learn",
    "semantickitti": "SemanticKITTI",
    "mnist": "MNIST/MNIST-M",
    "nyuv2": "NYU Depth V2",
}


# -- the paper's tables --------------------------------------------------------------------------


def strength_table(rows: Sequence[Row]) -> list[Table]:
    """Table I: parameters and accuracy or mIoU of one network a modality, trained alone."""
    lines = []
    for dataset, numbers in paper.tables()["table1"].values.items():
        own = select(rows, {"dataset": dataset})
        if not own and _is_simulated(rows):
            continue
        alike = dataset == "synthetic" or not _is_simulated(rows)  # so are the paper's
        alike &= not any(row["protocol"] in _SEGMENTATION for row in own)
        gaps = {f", gap {gap:g}": part for gap, part in values(own, "gap").items()}
        for at, part in (gaps or {"": own}).items():
            cells = [
                table_cell(*of, number if alike else None)
                for of, number in zip(_alone(part), numbers, strict=True)
            ]
            lines.append(Line((f"{_DATASETS[dataset]}{at}",), tuple(cells)))
    columns = [
        Column(modality, group)
        for group in ("parameters (million)", "accuracy or mIoU (%)")
        for modality in ("teacher", "student")
    ]
    return [Table("", ("data set",), tuple(columns), tuple(lines))]


def _alone(rows: Sequence[Row]) -> list[tuple[list[Row], str]]:
    """Return rows and column of both capacities and both strengths, teacher first.

    Where no network was trained alone, the students without KD and their teachers will do.
    """
    alone = [select(rows, {"arm": "single", "modality": name}) for name in ("teacher", "student")]
    if any(alone):
        return [(part, column) for column in ("parameters", SCORE) for part in alone]
    pairs = select(rows, {"arm": "without_kd"})
    return [
        (pairs, column)
        for column in (
            "teacher_parameters", "student_parameters", "last_test_teacher_score", SCORE,
        )
    ]  # fmt: skip


def method_table(name: str, rows: Sequence[Row]) -> list[Table]:
    """Tables II and III: methods across, masks down; accuracies, and gains where there are any.

    The published and the authors' preset of the methods have tables of their own. A table that the
    paper does not have is the same without its numbers.
    """
    published = [row for row in rows if row["method"] not in AUTHORS]
    authors = [
        row | {"method": AUTHORS.get(row["method"])}
        for row in rows
        if row["method"] in AUTHORS or row["arm"] != "kd"
    ]
    found = _preset_tables(name, "", published)
    if len(published) < len(rows):
        found += _preset_tables(name, ", the authors' preset", authors)
    return found


def _preset_tables(name: str, preset: str, rows: Sequence[Row]) -> list[Table]:
    accuracies = _accuracy_table(name, preset, rows)
    shown = shown_gains(rows).items()
    gains = [_gain_table(column, name, preset, accuracies.columns, rows) for column, name in shown]
    return [table for table in (accuracies, *gains) if table.lines]


def _is_simulated(rows: Sequence[Row]) -> bool:
    return any(row["source"] == "simulated" for row in rows)


def _accuracy_table(name: str, preset: str, rows: Sequence[Row]) -> Table:
    printed = paper.tables().get(name, paper.tables()["table2"]._replace(values={}))
    others = sorted({row["method"] for row in rows if row["method"]} - set(printed.columns))
    methods = [*printed.columns, *others]
    lines = []
    for label, where in _METHOD_LINES.items():
        numbers = dict(zip(printed.columns, printed.values.get(label, ()), strict=False))
        numbers = {} if _is_simulated(rows) else numbers  # the paper's are of real data
        found = select(rows, where)
        cells = []
        for method in methods:
            own = select(found, {"method": method}) if where["arm"] == "kd" else found
            cells.append(table_cell(own, SCORE, numbers.get(method)))
        if found or numbers:
            lines.append(Line((label,), tuple(cells)))
    title = f"Accuracy{preset}"
    return mark_best(Table(title, ("accuracy (%)",), tuple(map(Column, methods)), tuple(lines)))


def _gain_table(
    column: str, name: str, preset: str, methods: tuple[Column, ...], rows: Sequence[Row]
) -> Table:
    lines = []
    for label, mask in _MASKS.items():
        found = select(rows, {"arm": "kd", **mask})
        cells = [table_cell(select(found, {"method": m.name}), column) for m in methods]
        if any(entry.estimate for entry in cells):
            lines.append(Line((label,), tuple(cells)))
    title = f"{name[0].upper()}{name[1:]}, paired by seed{preset}"
    return Table(title, ("gain (points)",), methods, tuple(lines), remark=remarks(rows))


def application_table(rows: Sequence[Row]) -> list[Table]:
    """Table IV: existing cross-modal methods, without and with the sample mask."""
    printed, simulated = paper.tables()["table4"], _is_simulated(rows)
    lines = []
    for method, numbers in printed.values.items():
        own = select(rows, {"arm": "kd", "method": method})
        cells = [
            table_cell(select(own, _MASKS[mask]), SCORE, None if simulated else number)
            for mask, number in zip(printed.columns, numbers, strict=True)
        ]
        lines.append(Line((method,), tuple(cells)))
    return [Table("", ("mIoU (%)",), tuple(map(Column, printed.columns)), tuple(lines))]


# -- the paper's figures -------------------------------------------------------------------------


def _by_gap(title: str, column: str, *lines: LineSpec, y_name: str | None = None) -> PanelSpec:
    return PanelSpec(title, "gap", "modality gap γ", column, lines, y_name=y_name)


def mask_panel(
    title: str, x_label: str = "share of features removed", **where: object
) -> PanelSpec:
    """Fig. 8, 9 and 11: accuracy or mIoU over the masked share, for each of the three masks."""
    return PanelSpec(
        title,
        "ratio",
        x_label,
        SCORE,
        tuple(
            LineSpec(f"{short}: {removes.replace('_', ' ')}", {"arm": "kd", "removes": removes})
            for short, removes in paper.REMOVES.items()
        ),
        (
            LineSpec("no mask", {"arm": "kd", "mask": None}),
            LineSpec("w/o KD", {"arm": "without_kd", "mask": None}),
            LineSpec("equal task", {"arm": "equal_task", "mask": None}),
        ),
        where,
    )


def weight_panel(title: str) -> PanelSpec:
    """Fig. 7: accuracy or mIoU over one weight, the other one being 1."""
    weighted = {"arm": "kd", "method": "WeightedKL"}
    return PanelSpec(
        title,
        "alpha",
        "weight",
        SCORE,
        (
            LineSpec("α, target (β = 1)", {**weighted, "beta": 1.0}),
            LineSpec("β, non-target (α = 1)", {**weighted, "alpha": 1.0}, x="beta"),
        ),
        (LineSpec("w/o KD", {"arm": "without_kd"}), LineSpec("equal task", {"arm": "equal_task"})),
        even=True,
    )


def _gap_panels() -> tuple[PanelSpec, ...]:
    kd, without = {"arm": "kd"}, {"arm": "without_kd"}
    accuracy = _by_gap(
        "Accuracy",
        SCORE,
        LineSpec("teacher", kd, "last_test_teacher_score"),
        LineSpec("student, KD", kd),
        LineSpec("student w/o KD", without),
    )
    divergence = _by_gap(
        "Divergence of teacher and student",
        "last_test_ncjsd",
        LineSpec("NCJSD, KD", kd),
        LineSpec("NCJSD, w/o KD", without),
        LineSpec("TCJSD, KD", kd, "last_test_tcjsd"),
        LineSpec("TCJSD, w/o KD", without, "last_test_tcjsd"),
        y_name="divergence",
    )
    return accuracy, divergence


def _weight_by_gap(title: str, varied: str, fixed: str, symbol: str) -> PanelSpec:
    weighted = {"arm": "kd", "method": "WeightedKL", fixed: 1.0}
    return _by_gap(
        title,
        SCORE,
        LineSpec(f"{symbol} = {{}}", weighted, split=varied),
        LineSpec("w/o KD", {"arm": "without_kd"}),
    )


def _curve_panel(title: str) -> PanelSpec:
    without: Where = {"arm": "kd", "mask": None}
    masked: Where = {"arm": "kd", "removes": "most_divergent", "ratio": 0.5}
    return PanelSpec(
        title,
        "epoch",
        "epoch",
        "ncjsd",
        (
            LineSpec("NCJSD, no mask", without),
            LineSpec("NCJSD, T, γ = 0.5", masked),
            LineSpec("TCJSD, no mask", without, "tcjsd"),
            LineSpec("TCJSD, T, γ = 0.5", masked, "tcjsd"),
        ),
        y_name="divergence on validation data",
    )


def share_in_the_middle(image: Image) -> float:
    """Return the share of the heat in the middle 5/7 of both sides, where MNIST digits lie."""
    top, left = (side // 7 for side in image.shape)
    middle = image[top : image.shape[0] - top, left : image.shape[1] - left]
    return float(middle.sum() / (image.sum() or 1.0))


def middle_table(rows: Sequence[Row]) -> list[Table]:
    """Fig. 10: how much of the heat of each mask lies in the middle of the image, by layer."""
    names = {
        f"{short}, {removes.replace('_', ' ')}": f"middle_{removes}"
        for short, removes in paper.REMOVES.items()
        if any(f"middle_{removes}" in row for row in rows)
    }
    layers = by_key(rows, lambda row: str(row["layer"] or ""))
    lines = [
        Line((layer,), tuple(_mean(own, column) for column in names.values()))
        for layer, own in sorted(layers.items())
    ]
    title = "Share of the heat in the middle (5/7 of width and height, where MNIST digits lie)"
    return [Table(title, ("layer",), tuple(map(Column, names)), tuple(lines))] if names else []


def _mean(rows: Sequence[Row], column: str) -> Cell:
    return Cell(mean_ci(row[column] for row in rows if column in row), RATIO)


# -- extras --------------------------------------------------------------------------------------


def _unimodal_panel() -> PanelSpec:
    return PanelSpec(
        "Accuracy of the student",
        "gap",
        "modality gap γ",
        SCORE,
        (
            LineSpec("cross-modal KD", {"arm": "kd", "unimodal": False}),
            LineSpec("w/o KD", {"arm": "without_kd", "unimodal": False}),
        ),
        (LineSpec("unimodal KD", {"arm": "kd", "unimodal": True}),),
    )


def _bound_panel() -> PanelSpec:
    kd = {"arm": "kd"}
    return _by_gap(
        "Eq. 18: KL(teacher ‖ student) and its bound",
        "last_test_kl",
        LineSpec("TCKL + NCKL", kd, "kl_bound"),
        LineSpec("KL", kd),
        LineSpec("NCKL", kd, "last_test_nckl"),
        LineSpec("TCKL", kd, "last_test_tckl_binary"),
        y_name="divergence",
    )


def _classes_panel() -> PanelSpec:
    return PanelSpec(
        "Eq. 25: how much larger NCKL is than TCKL",
        "classes",
        "number of classes C",
        "nckl_over_tckl",
        (
            LineSpec("NCKL / TCKL, two-way", {"arm": "kd"}),
            LineSpec("NCKL / |TCKL|, Eq. 19", {"arm": "kd"}, "nckl_over_single_tckl"),
            LineSpec("C - 1", {"arm": "kd"}, "classes_less_1"),
        ),
        y_name="ratio",
    )


def _teacher_panel() -> PanelSpec:
    return PanelSpec(
        "A better teacher, a better student?",
        "last_test_teacher_score",
        "teacher's {score} (%)",
        SCORE,
        (LineSpec("a setting", {"arm": "kd"}),),
        scatter=True,
    )


_PMF = "The paper's text says PMF on SemanticKITTI, its caption NYU Depth V2."
_TASKS = (
    "The paper completes scenes of NYU Depth V2 (nyuv2_ssc; nyuv2_ssc_sscnet if scored as SSCNet's "
    "script does, which is not comparable); under nyuv2_seg and nyuv2_seg_small pixels are "
    "labelled, another task."
)
_TWO_WAY = (
    "TCKL is here the two-way form, which is never negative; with it the bound holds for every "
    "sample by construction."
)
_BOTH = (
    "TCKL without more is the two-way form of Eq. 17. The single term of Eq. 19 may be negative, "
    "so its size is taken in each sample. Verdicts depend on which of the two is meant."
)
_BOUND = grouped(
    "last_test_kl", "kl_bound", "last_test_tckl_binary", "last_test_nckl", by=("gap", "arm")
)
_RATIO = grouped(
    "last_test_nckl", "last_test_tckl_binary", "last_test_tckl_size", "nckl_over_tckl",
    "nckl_over_single_tckl", "classes_less_1",
    by=("classes", "teacher_parameters", "student_parameters", "arm"),
)  # fmt: skip

_WITH_CONTROLS = ("fig3", "table2", "table3", "table3_features")

_EXHIBITS = (
    Exhibit("table1", "Table I", "Capacity and strength of the two modalities", "table1",
            table=strength_table, also="fig3",
            note="Scikit-learn: the students without KD of Fig. 3 and their teachers, at every "
                 f"gap. {_TASKS}"),
    Exhibit("fig3", "Fig. 3", "KD as the modality gap grows, synthetic data", "fig3",
            _gap_panels()),
    Exhibit("fig6", "Fig. 6", "Weight adjustment, synthetic data", "fig6",
            (_weight_by_gap("(a) Target weight α, β = 1", "alpha", "beta", "α"),
             _weight_by_gap("(b) Non-target weight β, α = 1", "beta", "alpha", "β")),
            note="The paper's text swaps α and β; here α weighs the target part (TCKL) and β the "
                 "non-target part (NCKL), as in its Sec. IV-C."),
    Exhibit("fig7a", "Fig. 7 (a)", "Weight adjustment, MNIST/MNIST-M", "fig7a",
            (weight_panel("MNIST → MNIST-M"),)),
    Exhibit("fig7b", "Fig. 7 (b)", "Weight adjustment, RAVDESS", "fig7b",
            (weight_panel("RAVDESS"),)),
    Exhibit("fig7c", "Fig. 7 (c)", "Weight adjustment, SemanticKITTI", "fig7c",
            (weight_panel("SemanticKITTI"),)),
    Exhibit("fig7d", "Fig. 7 (d)", "Weight adjustment, NYU Depth V2", "fig7d",
            (weight_panel("NYU Depth V2"),), note=_TASKS),
    Exhibit("fig8", "Fig. 8", "Feature masks at the teacher's input, synthetic data", "fig8",
            (mask_panel("(a) gap γ = 0.5", gap=0.5), mask_panel("(b) gap γ = 0", gap=0.0)),
            note="The mask sets inputs of the trained teacher to zero; the authors train the "
                 "teacher anew on the kept inputs."),
    Exhibit("fig9a", "Fig. 9 (a)", "Feature masks, MNIST/MNIST-M", "fig9a",
            (mask_panel("MNIST → MNIST-M"),)),
    Exhibit("fig9b", "Fig. 9 (b)", "Feature masks, RAVDESS", "fig9b", (mask_panel("RAVDESS"),)),
    Exhibit("fig10", "Fig. 10", "What each feature mask takes away, in input pixels", "fig10",
            table=middle_table, details="maps", of_maps={"middle": share_in_the_middle},
            note="Brightness is the mean influence of the removed units on each pixel (at a hidden "
                 "layer: mean |gradient|), averaged over images, scaled for each map."),
    Exhibit("fig11a", "Fig. 11 (a)", "Sample masks, SemanticKITTI", "fig11a",
            (mask_panel("SemanticKITTI", "share of samples removed"),)),
    Exhibit("fig11b", "Fig. 11 (b)", "Sample masks, NYU Depth V2", "fig11b",
            (mask_panel("NYU Depth V2", "share of samples removed"),), note=_TASKS),
    Exhibit("fig11b_dkd", "Extra", "Sample masks with DKD, NYU Depth V2", "fig11b_dkd",
            (mask_panel("NYU Depth V2, DKD", "share of samples removed"),), note=_TASKS),
    Exhibit("fig12", "Fig. 12", "Where samples diverge most, SemanticKITTI", "fig12",
            details="maps",
            note="Two validation frames in small: the image, the mean NCJSD of the labelled pixels "
                 "of each block, and the share of them that a True mask (γ = 0.25) drops; black "
                 "also where no pixel is labelled. Each map has a scale of its own."),
    Exhibit("table2", "Table II", "KD methods with feature masks, MNIST/MNIST-M", "table2",
            table=partial(method_table, "table2"),
            note="Test accuracy of the last epoch. T, R and F remove the most divergent, random "
                 "and the least divergent features; γ (λ in the paper) is the share removed."),
    Exhibit("table3", "Table III", "KD methods with feature masks, RAVDESS", "table3",
            table=partial(method_table, "table3")),
    Exhibit("table_pairs", "Extra", "KD methods with feature masks, other pairs of modalities",
            "table_pairs", table=partial(method_table, "table_pairs"),
            note="Tables II and III on data sets that the paper does not have."),
    Exhibit("table4", "Table IV", "Sample masks in existing cross-modal methods, SemanticKITTI",
            "table4", table=application_table),
    Exhibit("fig13a", "Fig. 13 (a)", "Divergence during training, 2DPASS on SemanticKITTI",
            "fig13a", (_curve_panel("2DPASS"),), details="curves"),
    Exhibit("fig13b", "Fig. 13 (b)", "Divergence during training, PMF", "fig13b",
            (_curve_panel("PMF"),), details="curves", note=_PMF),
    Exhibit("fig13b_nyu", "Fig. 13 (b), NYU", "Divergence during training, NYU Depth V2",
            "fig13b_nyu", (_curve_panel("NYU Depth V2"),), details="curves",
            note=f"{_PMF} {_TASKS}"),
    Exhibit("unimodal", "Sec. III-C", "Cross-modal against unimodal KD", "unimodal",
            (_unimodal_panel(),), grouped(*SHOWN, by=("gap", "unimodal", "arm"))),
    Exhibit("eq18", "Eq. 18", "KL and its bound TCKL + NCKL", "eq18", (_bound_panel(),), _BOUND,
            note=_TWO_WAY),
    Exhibit("eq25", "Eq. 25", "NCKL beside TCKL as classes are added, synthetic data", "eq25",
            (_classes_panel(),), _RATIO, note=_BOTH),
    Exhibit("eq25_mnist", "Eq. 25, MNIST", "NCKL beside TCKL as classes are added, MNIST/MNIST-M",
            "eq25_mnist", (_classes_panel(),), _RATIO, note=_BOTH),
    Exhibit("teacher_accuracy", "Sec. III-B", "The teacher's accuracy against the student's",
            "teacher_accuracy", (_teacher_panel(),),
            grouped(*SHOWN, by=("teacher_epochs", "teacher_parameters", "arm"))),
    Exhibit("two_teachers", "Sec. IV-G", "Of two teachers, the less divergent one", "two_teachers",
            table=grouped(*SHOWN, by=("gap", "teacher_parameters", "arm"))),
    Exhibit("controls", "Extra", "KD against the task loss alone, of other weights", None,
            table=grouped(*SHOWN, by=("dataset", "gap", "classes", "method", "arm")),
            having={"arm": ("equal_task", "matched"), "experiment": _WITH_CONTROLS},
            keep={"mask": None, "arm": ("kd", *CONTROLS)},
            note="Students without KD. Equal task: with the task weight of the KD run, below 1. "
                 "Matched: raised to the sum of both weights. A gain over w/o KD that matched has "
                 "as well, or a loss that equal task has as well, does not come from the teacher. "
                 "Late gain: what the score on validation data gains over the last fifth of the "
                 "epochs; below 0.5 points training counts as converged."),
)  # fmt: skip

EXHIBITS = tuple(replace(exhibit, says=paper.says(exhibit.name)) for exhibit in _EXHIBITS)
