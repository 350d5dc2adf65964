"""The drawn sections of a run's page: curves, classes, samples and the mask; empty without them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.pictures.colours import label_map, marked, palette, png
from ntdh_bench.pictures.file import Array, Pictures
from ntdh_bench.pictures.scores import class_scores, described, mistakes, shares
from ntdh_bench.report import figures
from ntdh_bench.report.elements import heads, labelled, scroll, sort_value
from ntdh_bench.report.html import Html, el, join
from ntdh_bench.report.layouts import Curve, Panel
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.tables import NATS, PERCENT, PLAIN, Unit
from ntdh_bench.show.runs import ShownRun

_MAX_MATRIX = 64  # classes: of more the most frequent mistakes alone are shown
_MAX_MISTAKES, _MAX_KEY = 8, 64
_MAX_BARS = 300
_FEW_EPOCHS = 12
_TEACHERS = {"teacher": "teacher", "retrained": "teacher, trained anew"}
_SHOWN = 128  # pixels, to which smaller images are enlarged
_INK, _BLUE, _ORANGE = "#222222", "#0072B2", "#D55E00"

Named = tuple[str, Sequence[float]]


# -- curves --------------------------------------------------------------------------------------


def curves(run: ShownRun) -> Html:
    """Return the losses and the validation metrics of student and teacher over their epochs."""
    panels = [
        ("Loss of the student", "loss", PLAIN, _losses(run, "")),
        *(
            (f"Loss of the {name}", "loss", PLAIN, _losses(run, f"{stage}/"))
            for stage, name in _TEACHERS.items()
        ),
        *_validation(run),
    ]
    drawn = [
        labelled(figures.draw_panel(_panel(title, label, unit, lines), f"curve-{number}"), title)
        for number, (title, label, unit, lines) in enumerate(panels)
        if lines
    ]
    if not drawn:
        return Html()
    origin = str((run.record or {}).get("teacher"))
    text = f"The teacher was not trained by this run ({origin}), so that its curves are not here."
    elsewhere = origin in ("cached", "given")
    return join(
        el("div", *drawn, class_="panels"), el("p", text, class_="note") if elsewhere else ""
    )


def _losses(run: ShownRun, stage: str) -> list[Named]:
    start = f"{stage}train/"
    found = {tag: curve for tag, curve in run.curves.items() if tag.startswith(start)}
    lines = [(tag.removeprefix(start), curve.values) for tag, curve in found.items()]
    lines.sort(key=lambda line: (line[0] != "loss", line[0]))  # the sum of the parts first
    return [(name.replace("_", " "), values) for name, values in lines]


def _validation(run: ShownRun) -> Iterator[tuple[str, str, Unit, list[Named]]]:
    """Yield title, label, unit and lines of what was measured on validation data."""
    logged = {tag: curve.values for tag, curve in run.curves.items()}
    kept = (run.record or {}).get("curves") or {}
    logged = {f"val/{name}": values for name, values in kept.items()} | logged
    for measure, name in (("accuracy", "accuracy"), ("miou", "mIoU")):
        tags = {
            "student": f"val/{measure}",
            **{f"{n}, while trained": f"{s}/val/{measure}" for s, n in _TEACHERS.items()},
            "teacher, frozen": f"val/teacher_{measure}",
        }
        lines = _named(tags, logged)
        yield f"{name}, validation", f"{name} (%)", PERCENT, lines
    divergences = {"NCJSD": "val/ncjsd", "TCJSD": "val/tcjsd"}
    lines = _named(divergences, logged)
    yield "Divergence of teacher and student, validation", "nats", NATS, lines


def _named(tags: Mapping[str, str], logged: Mapping[str, Sequence[float]]) -> list[Named]:
    return [(line, logged[tag]) for line, tag in tags.items() if logged.get(tag)]


def _panel(title: str, label: str, unit: Unit, lines: Sequence[Named]) -> Panel:
    drawn = tuple(
        Curve(
            name,
            tuple(range(1, len(values) + 1)),
            tuple(Estimate(value, None, None, 1) for value in values),
            unit,
            False,
        )
        for name, values in lines
    )
    few = max(len(values) for _, values in lines) <= _FEW_EPOCHS  # each has its tick
    return Panel(title, "epoch", label, drawn, (), few, False)


# -- classes -------------------------------------------------------------------------------------


def classes(run: ShownRun) -> Html:
    """Return confusion matrices, and a table of the classes, of the last epoch on test data."""
    found = run.pictures
    if found is None or not found.confusion:
        return Html()
    parts = [
        el("div", el("h3", f"Confusion of the {name}"), _confusion(found, name))
        for name in found.confusion
    ]
    measure = str((run.row or {}).get("measure") or "accuracy")
    return join(
        el("div", *parts, class_="panels"),
        el("h3", "By class"),
        scroll(_class_table(found, measure), "Classes"),
        el("p", "Classes without test rows are left out.", class_="note"),
    )


def _confusion(found: Pictures, network: str) -> Html:
    counts, names = found.confusion[network], found.classes
    shown = [
        el("li", f"{m.true} taken for {m.predicted}: {m.number:,}, {m.share:.1%} of its class")
        for m in mistakes(found, network, _MAX_MISTAKES)
    ]
    often = el("details", el("summary", "Most frequent mistakes"), el("ul", *shown))
    if len(names) > _MAX_MATRIX:
        return el("ul", *shown)
    drawing = _matrix(shares(counts), names)
    label = f"Confusion matrix of the {network}: rows true, columns predicted, % of the row"
    return join(
        el("div", labelled(drawing, label), class_="scroll matrix", tabindex=0, role="region",
           aria_label=label),
        el("p", "Rows: true; columns: predicted, in the same order; per cent of the row.",
           class_="note"),
        often if shown else "",
    )  # fmt: skip


def _matrix(values: NDArray[np.float64], names: Sequence[str]) -> str:
    """Return shares ``(C, C)`` as SVG, numbers in the cells where they fit."""
    count = len(names)
    side, large = (28, True) if count <= 12 else (16 if count <= 32 else 9, False)
    text = min(11, side)
    left = 8 + round(0.58 * text * min(18, max(map(len, names))))
    parts = [f'<svg width="{left + side * count}" height="{side * count}" '
             f'viewBox="0 0 {left + side * count} {side * count}" font-size="{text}">']  # fmt: skip
    for row, name in enumerate(names):
        y = row * side
        label = el("text", _cut(name), x=left - 5, y=y + side // 2 + 4, text_anchor="end")
        parts.append(label)
        for column in np.flatnonzero(values[row] >= 0.001).tolist():
            share, x = float(values[row, column]), left + column * side
            title = el("title", f"{name} as {names[column]}: {share:.1%}")
            fill = _BLUE if row == column else _ORANGE
            parts.append(el("rect", title, x=x, y=y, width=side - 1, height=side - 1, fill=fill,
                            fill_opacity=f"{0.12 + 0.88 * share:.2f}"))  # fmt: skip
            if large and share >= 0.005:
                ink = "#ffffff" if share > 0.55 else _INK
                parts.append(el("text", f"{100 * share:.0f}", x=x + side // 2, y=y + 18,
                                text_anchor="middle", fill=ink))  # fmt: skip
    frame = f'<rect x="{left}" width="{side * count - 1}" height="{side * count - 1}"'
    return "".join([*parts, frame, ' fill="none" stroke="#999999" stroke-width="0.5"/></svg>'])


def _cut(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _class_table(found: Pictures, measure: str) -> Html:
    word = "IoU" if measure == "miou" else "accuracy"
    counts = next(iter(found.confusion.values())).sum(axis=1)
    columns: dict[str, Array] = {"test rows": counts}
    scores = {name: 100 * class_scores(m, measure) for name, m in found.confusion.items()}
    columns |= {f"{name}, {word} [%]": values for name, values in scores.items()}
    if len(scores) > 1:
        columns["student - teacher [points]"] = scores["student"] - scores["teacher"]
    if found.ncjsd is not None:
        columns["NCJSD [nats]"] = found.ncjsd
    if found.dropped is not None:
        columns["dropped by the mask [%]"] = 100 * found.dropped / counts.clip(1)
    lines = [
        el("tr", el("th", name, scope="row"), *(_cell(c, v[n]) for c, v in columns.items()))
        for n, name in enumerate(found.classes)
        if counts[n]  # nothing can be said of others
    ]
    return el("table", el("thead", heads(["class", *columns], 1)), el("tbody", *lines))


def _cell(column: str, value: Any) -> Html:
    digits = 4 if "nats" in column else 0 if column == "test rows" else 1
    sign = "+" if "points" in column else ""
    return el("td", f"{value:{sign},.{digits}f}", data_value=sort_value(float(value)))


# -- samples -------------------------------------------------------------------------------------


def samples(run: ShownRun) -> Html:
    """Return a few test samples as the networks saw them, with what they said."""
    found = run.pictures
    if found is None or not found.samples():
        return Html()
    items = [_sample(found, number) for number in range(found.samples())]
    assert found.target is not None
    key = _key(found) if found.target.ndim > 1 else ""
    text = (
        "Test samples, spread evenly over the set, as the networks take them; their values are "
        "scaled to be seen."
    )
    return join(el("p", text, class_="note"), el("ul", *items, class_="samples"), key)


def _sample(found: Pictures, number: int) -> Html:
    assert found.target is not None
    parts = [_figure(name, values[number]) for name, values in found.inputs.items()]
    if found.target.ndim == 1:
        return el("li", el("div", *parts, class_="parts"), _said(found, number))
    maps = {"true": found.target[number]}
    maps |= {name: values[number] for name, values in found.prediction.items()}
    for name, labels in maps.items():
        parts.append(_figure(name, label_map(labels, len(found.classes))))
    if found.dropped_map is not None:
        image = marked(label_map(maps["true"], len(found.classes)), found.dropped_map[number])
        parts.append(_figure("dropped by the mask (red)", image))
    return el("li", el("div", *parts, class_="parts"))


def _said(found: Pictures, number: int) -> Html:
    assert found.target is not None
    true = int(found.target[number])
    words = [join("true: ", el("b", described(true, found)))]
    for name, values in found.prediction.items():
        label, sure = int(values[number]), found.confidence.get(name)
        right = label == true
        text = f"{described(label, found)} {'✓' if right else '✗'}"
        share = f" {100 * float(sure[number]):.0f} %" if sure is not None else ""
        said = el("span", text, class_="right" if right else "wrong")
        words.append(join(f"{name}: ", said, share))
    return el("p", *(join(el("br") if n else "", part) for n, part in enumerate(words)))


def _figure(name: str, values: Array) -> Html:
    """Return an image, or lines ``(K, L)``, with its name below."""
    is_image = values.dtype == np.uint8
    drawing = _img(values, name) if is_image else labelled(_lines(values), name)
    return el("figure", drawing, el("figcaption", name))


def _img(values: Array, name: str) -> Html:
    height, width = values.shape[:2]
    times = max(1, _SHOWN // max(height, width))
    data = base64.b64encode(png(values)).decode("ascii")
    return el("img", src=f"data:image/png;base64,{data}", alt=name, width=width * times,
              height=height * times)  # fmt: skip


def _lines(values: Array) -> str:
    """Return lines on one scale as SVG."""
    low, high = float(values.min()), float(values.max())
    x = np.linspace(0, 176, values.shape[1])
    drawn = []
    for line in values:
        y = 2 + 84 * (1 - (line - low) / ((high - low) or 1.0))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        drawn.append(f'<polyline points="{points}"/>')
    faint = 1.0 if len(values) < 3 else 0.55
    return (
        '<svg viewBox="0 0 176 88" preserveAspectRatio="none">'
        f'<g fill="none" stroke="{_BLUE}" stroke-width="1" stroke-opacity="{faint}">'
        f"{''.join(drawn)}</g></svg>"
    )


def _key(found: Pictures) -> Html:
    """Return which colour is which class, of those that are seen."""
    assert found.target is not None
    seen = set(np.unique(np.stack([found.target, *found.prediction.values()])).tolist())
    colours = palette(len(found.classes))
    items = [
        el("li", el("i", style=f"background: rgb({','.join(map(str, colours[label]))})"),
           described(label, found) if label >= 0 else "not counted")
        for label in sorted(seen)[:_MAX_KEY]
    ]  # fmt: skip
    return el("ul", *items, class_="key", aria_label="Colours of the classes")


# -- the mask ------------------------------------------------------------------------------------


def mask(run: ShownRun) -> Html:
    """Return what the mask leaves out, of features or of rows."""
    found, settings = run.pictures, run.settings.get("mask")
    if found is None or not settings:
        return Html()
    if found.kept is not None:
        return _feature_mask(found, settings)
    if found.dropped is None or not found.confusion:
        return Html()
    rows, dropped = int(found.confusion["student"].sum()), int(found.dropped.sum())
    text = (
        f"Of {rows:,} test rows the mask would leave {dropped:,} ({dropped / max(rows, 1):.1%})"
        " out of the distillation term, as it does in training; the table by class says which."
    )
    return el("p", text)


def _feature_mask(found: Pictures, settings: Mapping[str, Any]) -> Html:
    assert found.kept is not None
    layer = str((settings.get("init_args") or {}).get("layer", "?"))[:60]
    removed = int((~found.kept).sum())
    words = el("p", f"{removed:,} of {len(found.kept):,} features of the teacher's layer {layer} "
               "are removed.")  # fmt: skip
    parts: list[Html] = []
    if found.divergence is not None:
        label = "Features by how much divergence they add; removed ones in orange"
        drawing = labelled(_bars(found.divergence, found.kept), label)
        caption = el("figcaption", f"{label}; Algorithm 1, the most divergent on the left.")
        parts.append(el("figure", drawing, caption))
    for name, images in found.inputs.items():
        shape = images.shape[1:3]
        if images.dtype == np.uint8 and name.startswith("teacher") and (
            shape[0] * shape[1] == len(found.kept) and layer == "input"
        ):  # fmt: skip
            image = marked(images[0], ~found.kept.reshape(shape))
            caption = el("figcaption", "Removed pixels in red, on the first sample.")
            parts.append(el("figure", _img(image, "removed pixels"), caption, class_="overlay"))
    return join(words, el("div", *parts, class_="panels") if parts else "")


def _bars(divergence: Array, kept: Array) -> str:
    """Return values as bars in falling order, of many features those at even places."""
    order = np.argsort(-divergence, kind="stable")
    order = order[np.linspace(0, len(order) - 1, min(len(order), _MAX_BARS)).astype(int)]
    low, high = min(0.0, float(divergence.min())), max(0.0, float(divergence.max()))
    span, step = (high - low) or 1.0, 300 / len(order)
    bars = []
    for place, feature in enumerate(order):
        value = float(divergence[feature])
        top, bottom = (160 * (high - edge) / span for edge in (max(value, 0), min(value, 0)))
        fill = _BLUE if kept[feature] else _ORANGE
        bars.append(
            f'<rect x="{place * step:.2f}" y="{top:.2f}" width="{0.9 * step:.2f}" '
            f'height="{max(bottom - top, 0.4):.2f}" fill="{fill}"/>'
        )
    zero = 160 * high / span
    axis = f'<path d="M0 {zero:.2f}H300" stroke="#666666" stroke-width="0.5"/>'
    return f'<svg viewBox="0 0 300 160">{"".join(bars)}{axis}</svg>'
