"""The report as one static HTML page: styles, scripts and figures inside, nothing to load."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean

from ntdh_bench import __version__
from ntdh_bench.experiments import Experiment
from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report import figures, wording
from ntdh_bench.report.cells import headings, varying
from ntdh_bench.report.claims import VERDICTS, Result
from ntdh_bench.report.contents import Content, Variant
from ntdh_bench.report.effects import NOT_RUN
from ntdh_bench.report.elements import (
    badge,
    document,
    file_links,
    heads,
    labelled,
    scroll,
    section,
    sort_value,
    verdict_badge,
)
from ntdh_bench.report.evidence import Evidence
from ntdh_bench.report.gates import failed
from ntdh_bench.report.html import Html, el, join
from ntdh_bench.report.hypothesis import Hypothesis, Point, Stratum, Summary
from ntdh_bench.report.papers import Paper
from ntdh_bench.report.tables import Cell, Line, Table

TITLE = "Does non-target divergence decide cross-modal distillation?"
SECTIONS = {
    "study": "The study",
    "summary": "Summary",
    "claims": "Claims",
    "hypothesis": "Hypothesis",
    "tables": "Tables",
    "figures": "Figures",
    "experiments": "Experiments",
    "extras": "Extras",
    "records": "Records",
}


def render(
    found: Evidence,
    papers: Mapping[str, Paper],
    contents: Sequence[Content],
    claims: Sequence[Result],
    hypothesis: Hypothesis,
    experiments: Sequence[Experiment],
    front: Html,
) -> str:
    """Return the page.

    Args:
        found: the rows.
        papers: by name.
        contents: all exhibits.
        claims: the ledger.
        hypothesis: the test.
        experiments: those that come with this version.
        front: what the page opens on, before the summary of everything; may be empty.
    """
    known = {experiment.name: experiment for experiment in experiments}
    exhibits = {content.exhibit.name for content in contents}
    anchors = {result.id: _anchor(result, exhibits) for result in claims}
    by_exhibit: dict[str, list[Result]] = defaultdict(list)
    for result in claims:
        by_exhibit[anchors[result.id]].append(result)
    parts = {name: Html() for name in ("tables", "figures", "experiments", "extras")}
    for content in contents:
        exhibit = _exhibit(content, known, by_exhibit[content.exhibit.name])
        parts[_part(content)] = join(parts[_part(content)], exhibit)
    body = join(
        *([_section("study", front)] if front else []),
        _section("summary", _summary(found, contents, claims, hypothesis)),
        _section("claims", _claims(claims, anchors)),
        _section("hypothesis", _hypothesis(hypothesis)),
        *(_section(name, part) for name, part in parts.items() if part),
        _section("records", _records(found, known)),
    )
    sections = [name for name in SECTIONS if {"study": front, **parts}.get(name, True)]
    return _document(body, sections, "; ".join(paper.citation for paper in papers.values()))


def _document(body: Html, sections: Sequence[str], citations: str) -> str:
    foot = el(
        "p",
        f"Made by ntdh-bench {__version__} from the files in records/: every number comes "
        f"from a recorded run. Papers whose numbers stand beside ours: {citations}.",
    )
    named = {name: SECTIONS[name] for name in sections}
    return document(TITLE, el("header", el("h1", TITLE)), named, body, foot)


def _section(name: str, *content: str) -> Html:
    return section(name, SECTIONS[name], *content)


def _part(content: Content) -> str:
    label = content.exhibit.label
    parts = {"Table": "tables", "Fig.": "figures", "Experiment": "experiments"}
    return parts.get(label.split()[0], "extras")


# -- summary -------------------------------------------------------------------------------------


def _summary(
    found: Evidence,
    contents: Sequence[Content],
    claims: Sequence[Result],
    hypothesis: Hypothesis,
) -> Html:
    runs = {row["run"] for row in found.all_rows}
    real = {row["run"] for row in found.all_rows if row["source"] == "real"}
    sentences = [
        el("p", badge(s.source), " ", wording.summary_sentence(s), ".")
        for s in hypothesis.summaries
        if s.quantity in ("ncjsd", "difference")
    ]
    none = el("p", "No stratum has enough cells and seeds for a test of the hypothesis yet.")
    return join(
        el(
            "p",
            f"{len(runs):,} runs of {len(found.rows)} experiments: {len(real):,} on real data, "
            f"{len(runs) - len(real):,} on simulated data.",
        ),
        el("h3", "What held"),
        _counts(claims),
        el("h3", "The hypothesis"),
        el(
            "p",
            "It says: the smaller the divergence over non-target classes (NCJSD), the more the "
            "student gains. So its rank correlation with the gain should be negative, and more so "
            "than that of the target class (TCJSD).",
        ),
        el("div", *(sentences or [none]), class_="headline"),
        el("h3", "What these numbers are"),
        el("p", wording.SEEDS_NOTE),
        el("p", badge("simulated"), " ", wording.SIMULATED_NOTE),
        _problems(found.problems),
        el("h3", "What was run"),
        el("ul", *(_index_entry(content) for content in contents), class_="index"),
    )


def _counts(claims: Sequence[Result]) -> Html:
    lines = []
    for source in ("real", "simulated", None):
        counts = Counter(result.verdict for result in claims if result.source == source)
        if counts:
            name = badge(source) if source else "nothing was run"
            cells = [el("td", str(counts[verdict] or "–")) for verdict in VERDICTS]
            lines.append(el("tr", el("th", name, scope="row"), *cells))
    head = [el("th", verdict_badge(verdict), scope="col") for verdict in VERDICTS]
    if not lines:
        return el("p", "No claim was tested yet.")
    table = el(
        "table",
        el("caption", "Claims of the paper, one count per protocol"),
        el("thead", el("tr", el("th", "data", scope="col", class_="text"), *head)),
        el("tbody", *lines),
        class_="counts",
    )
    return scroll(table, "Counts of verdicts")


def _problems(problems: Sequence[str]) -> Html:
    if not problems:
        return Html()
    items = [el("li", problem) for problem in problems]
    return join(el("h3", f"Problems with the records ({len(problems)})"), el("ul", *items))


def _index_entry(content: Content) -> Html:
    sources = sorted({variant.source for variant in content.variants})
    badges = [badge(source) for source in sources] or [badge(NOT_RUN)]
    exhibit = content.exhibit
    link = el("a", exhibit.label, href=f"#{exhibit.name}")
    return el("li", link, el("span", exhibit.title, class_="what"), el("span", *badges))


# -- claims --------------------------------------------------------------------------------------


def _claims(claims: Sequence[Result], anchors: Mapping[str, str]) -> Html:
    explanation = el(
        "p",
        "Every claim of the paper, tested on records: paired over seeds. It holds, or fails, if "
        "the corrected p of that is below 0.05, and with fewer than five seeds it stays "
        "inconclusive; a difference in accuracy shown to be less than half a point is no effect. "
        "Identities hold by construction and are no evidence. "
        f"{wording.FAMILY_NOTE} {wording.GATES_NOTE} {wording.N_NOTE}",
    )
    head = ("verdict", "claim", "data", "n", "effect [95 %]", "Holm p", "in the paper")
    table = el(
        "table",
        el("thead", heads(head, len(head))),
        el("tbody", *(_claim(result, anchors[result.id]) for result in claims)),
        id="ledger",
    )
    box = el("div", table, class_="scroll tall", tabindex=0, role="region", aria_label="Ledger")
    return join(explanation, _filters(claims), box, file_links(("claims.md", "claims.csv")))


def _filters(claims: Sequence[Result]) -> Html:
    counts = Counter(result.verdict for result in claims)
    boxes = [
        el(
            "label",
            el("input", type="checkbox", value=verdict, checked=True),
            f"{verdict} ({counts[verdict]})",
        )
        for verdict in VERDICTS
    ]
    sources = [el("option", name, value=name) for name in ("real", "simulated")]
    choice = el("select", el("option", "all", value=""), *sources, aria_label="source of the data")
    return el(
        "fieldset",
        *boxes,
        el("label", "data: ", choice),
        el("output", class_="note"),
        class_="filters",
        aria_label="Filter the claims",
    )


def _claim(result: Result, anchor: str) -> Html:
    p = f"p before correction: {wording.p_value(result.p)}" if result.p is not None else ""
    claimed = f"Claimed: {result.claimed}" if result.claimed else ""
    gates = ", ".join(map(wording.gate, result.gates))
    lines = (result.test, claimed, p, gates and f"Gates: {gates}", result.note)
    shown = [el("p", text) for text in lines if text]
    shown.append(el("p", el("a", "Go to the exhibit", href=f"#{anchor}")))
    protocol = el("div", result.protocol) if result.protocol else ""
    data = join(badge(result.source) if result.source else "–", protocol)
    return el(
        "tr",
        el(
            "td",
            verdict_badge(result.verdict),
            *(el("div", f"✗ {gate.name}", class_="note") for gate in failed(result.gates)),
            class_="text",
            data_value=VERDICTS.index(result.verdict),
        ),
        el(
            "td",
            result.statement,
            el("details", el("summary", result.where), *shown),
            class_="text wide",
            data_value=result.statement,
        ),
        el("td", data, class_="text", data_value=wording.setting(result)),
        el("td", str(result.n)),
        el("td", wording.effect(result), data_value=sort_value(result.effect)),
        el("td", wording.p_value(result.p_corrected), data_value=sort_value(result.p_corrected)),
        el("td", result.published or "–", class_="text"),
        data_verdict=result.verdict,
        data_source=result.source or "",
    )


def _anchor(result: Result, exhibits: Collection[str]) -> str:
    """Return the id of the exhibit, or part of it (``fig9a`` of ``fig9``), a claim belongs to."""
    own = result.experiment.startswith(result.exhibit)
    name = result.experiment if own else result.exhibit
    return name if name in exhibits else "hypothesis"


# -- the hypothesis ------------------------------------------------------------------------------


def _hypothesis(found: Hypothesis) -> Html:
    explanation = el(
        "p",
        "A stratum is a data set, source, protocol and objective (student, distiller and how they "
        "are trained), and one thing that moves the divergence between teacher and student before "
        "distillation. Over its cells the gain over the same student without KD is regressed on "
        f"that divergence. {wording.HYPOTHESIS_NOTE}",
    )
    if not found.strata:
        return join(explanation, el("p", "No stratum has runs yet."))
    drawings = [*_forests(found.summaries), *_scatters(found.points)]
    files = ("hypothesis.md", "hypothesis.csv", "hypothesis_sets.csv", "hypothesis_points.csv")
    return join(
        explanation,
        _summaries(found.summaries),
        el("div", *map(Html, drawings), class_="panels"),
        el("p", "The scatter pools strata and is descriptive only.", class_="note"),
        _strata(found.strata),
        file_links(files),
    )


def _summaries(summaries: Iterable[Summary]) -> Html:
    lines = []
    for summary in summaries:
        verdict, source, *cells = wording.summary_line(summary)
        badges = [
            el("td", found, class_="text") for found in (verdict_badge(verdict), badge(source))
        ]
        shown = [el("td", text, class_="text" if n < 2 else None) for n, text in enumerate(cells)]
        lines.append(el("tr", *badges, *shown))
    head = heads(wording.SUMMARY_HEAD, 4, sortable=False)
    table = el("table", el("thead", head), el("tbody", *lines))
    return scroll(table, "Slopes over data sets")


def _forests(summaries: Iterable[Summary]) -> list[Html]:
    """Return a forest plot of the slope in NCJSD over data sets for each thing that moves it."""
    drawings = []
    for number, summary in enumerate(s for s in summaries if s.quantity == "ncjsd"):
        lines = [
            figures.ForestLine(name, effect.value, *effect.interval(), "counts")
            for name, effect in summary.sets.items()
        ]
        if mean := summary.pooled:
            lines.append(figures.ForestLine("mean", mean.value, mean.low, mean.high, "summary"))
        label = f"{summary.moved}, {summary.source} data: points for 1 SD of NCJSD"
        drawing = figures.draw_forest(lines, label, f"forest-{number}")
        drawings.append(labelled(drawing, label))
    return drawings


def _scatters(points: Sequence[Point]) -> list[Html]:
    """Return the cells of each source, from the mean of their stratum: nothing else compares."""
    drawings = []
    for source in ("real", "simulated"):
        strata = by_key((p for p in points if p.source == source), lambda point: point.stratum)
        groups: dict[str, tuple[list[float], list[float]]] = {}
        for own in strata.values():
            x, y = groups.setdefault(own[0].dataset, ([], []))
            x += _centred([point.ncjsd for point in own])
            y += _centred([point.gain for point in own])
        if groups:
            title = f"Cells of all strata, {source} data"
            drawing = figures.draw_scatter(
                [(name, x, y) for name, (x, y) in groups.items()],
                "NCJSD before distillation (nats from the stratum's mean)",
                "gain (points from the stratum's mean)",
                title,
                f"scatter-{source}",
            )
            drawings.append(labelled(drawing, title))
    return drawings


def _centred(values: Sequence[float]) -> list[float]:
    return [value - fmean(values) for value in values]


def _strata(strata: Iterable[Stratum]) -> Html:
    names = ("stratum", "data", "cells", "seeds", *wording.QUANTITY_NAMES.values(), "gates")
    lines = []
    for stratum in strata:
        found = [getattr(stratum, quantity) for quantity in wording.QUANTITY_NAMES]
        lines.append(
            el(
                "tr",
                el("th", stratum.label, scope="row"),
                el("td", badge(stratum.source), data_value=stratum.source),
                el("td", wording.cells(stratum), data_value=stratum.cells),
                el("td", str(stratum.seeds)),
                *(
                    el("td", wording.slope(e), data_value=sort_value(e.value if e else None))
                    for e in found
                ),
                el("td", wording.open_gates(stratum.gates), class_="text"),
            )
        )
    table = el("table", el("thead", heads(names, 1)), el("tbody", *lines))
    return scroll(table, "Strata of the hypothesis test")


# -- exhibits ------------------------------------------------------------------------------------


def _exhibit(content: Content, known: Mapping[str, Experiment], claims: Sequence[Result]) -> Html:
    exhibit = content.exhibit
    says = el("p", f"The paper: {exhibit.says}", class_="note") if exhibit.says else ""
    note = el("p", exhibit.note, class_="note") if exhibit.note else ""
    shown = [_variant(variant) for variant in content.variants]
    return el(
        "section",
        el("h3", el("span", exhibit.label, class_="label"), exhibit.title),
        says,
        note,
        _verdicts(claims),
        *(shown or [_card(content, known)]),
        id=exhibit.name,
        aria_label=f"{exhibit.label}. {exhibit.title}",
    )


def _verdicts(claims: Sequence[Result]) -> Html:
    tested = [result for result in claims if result.protocol]
    if not tested:
        return Html()
    settings = groupby(sorted(tested, key=wording.setting), key=wording.setting)
    lines = []
    for setting, results in settings:
        counts = Counter(result.verdict for result in results)
        shown = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
        lines.append(f"{setting}: {', '.join(shown)}")
    link = el("a", "Claims", href="#claims")
    return el("p", link, f" ({'; '.join(lines)})", class_="note")


def _card(content: Content, known: Mapping[str, Experiment]) -> Html:
    """Say that nothing was run, how to run it, and what the paper prints."""
    experiment = known.get(content.exhibit.experiment or "")
    if experiment is None:
        how: Html = join("No experiment of this version makes it.")
    elif experiment.missing:
        how = join(
            "Its data set, ", el("code", experiment.requires), ", is not part of this version."
        )
    else:
        how = join("Run it: ", el("code", f"ntdh-bench sweep {experiment.name}"))
    tables = [_table(table) for table in content.blank]
    return join(el("div", el("p", badge(NOT_RUN), " ", how), class_="card"), *tables)


def _variant(variant: Variant) -> Html:
    drawings = [
        labelled(svg, f"{variant.stem}, panel {i}") for i, svg in enumerate(variant.drawings, 1)
    ]
    panels = el("figure", el("div", *drawings, class_="panels")) if drawings else ""
    kinds = ("md", "csv", "tex") if variant.tables else ()
    files = [f"tables/{variant.stem}.{kind}" for kind in kinds]
    files += [f"figures/{variant.stem}.svg"] if drawings else []
    tables = [_table(table) for table in variant.tables]
    numbers = join(*tables)
    if drawings and tables and variant.protocol:
        numbers = el("details", el("summary", "Numbers"), *tables)
    made = [join(el("dt", k), el("dd", v)) for k, v in wording.provenance(variant.rows).items()]
    where = wording.where(variant.protocol)
    return join(
        el("h4", f"{where[0].upper()}{where[1:]} ", badge(variant.source)),
        panels,
        *(el("p", note, class_="note") for note in variant.notes),
        numbers,
        el("details", el("summary", "How it was made"), el("dl", *made)),
        file_links(files),
    )


# -- tables --------------------------------------------------------------------------------------


def _table(table: Table) -> Html:
    caption = el("caption", table.title) if table.title else ""
    body = el("tbody", *(_line(table, line) for line in table.lines))
    element = el("table", caption, el("thead", *_head(table)), body)
    note = el("p", table.note, class_="note") if table.note else ""
    return join(scroll(element, table.title or "Table"), note)


def _head(table: Table) -> list[Html]:
    rows = []
    if any(column.group for column in table.columns):
        groups = [
            el("th", name, colspan=span, scope="colgroup") for name, span in table.header_groups()
        ]
        rows.append(el("tr", el("td", colspan=len(table.keys)), *groups))
    names = [*table.keys, *(column.name for column in table.columns)]
    return [*rows, heads(names, len(table.keys), table.sortable)]


def _line(table: Table, line: Line) -> Html:
    labels = [el("th", text, scope="row") for text in line.labels]
    spans = len(table.columns) if len(line.cells) < len(table.columns) else None
    return el("tr", *labels, *(_cell(table, cell, spans) for cell in line.cells))


def _cell(table: Table, cell: Cell | None, spans: int | None) -> Html:
    if cell is None:
        return el("td", "–", class_="none")
    ours = el("b", cell.ours) if cell.best else cell.ours
    printed = join(" ", el("span", cell.printed, class_="paper")) if cell.printed else ""
    kind = "span" if spans else None if cell.estimate else "none"
    value = sort_value(cell.estimate.mean if cell.estimate else None)
    shown = join(ours, table.brackets(cell), printed)
    return el("td", shown, class_=kind, colspan=spans, data_value=value if table.sortable else None)


# -- records -------------------------------------------------------------------------------------


def _records(found: Evidence, known: Mapping[str, Experiment]) -> Html:
    names = ("experiment", "what", "runs", "seeds", "protocols", "data", "hours")
    lines = []
    for name, rows in found.rows.items():
        hours = sum(row["seconds"] or 0.0 for row in rows) / 3600
        sources = sorted({row["source"] for row in rows})
        lines.append(
            el(
                "tr",
                el("th", el("a", name, href=f"records/{name}.csv"), scope="row"),
                el("td", known[name].title if name in known else _varied(rows), class_="text wide"),
                el("td", str(len(rows))),
                el("td", str(len({row["seed"] for row in rows}))),
                el("td", ", ".join(sorted({row["protocol"] for row in rows})), class_="text"),
                el("td", *(join(badge(source), " ") for source in sources), class_="text"),
                el("td", f"{hours:.1f}"),
            )
        )
    table = el("table", el("thead", heads(names, len(names))), el("tbody", *lines))
    return join(
        el("p", "One CSV per experiment, a row per run; results/README.md describes the columns."),
        scroll(table, "Records"),
    )


def _varied(rows: Sequence[Row]) -> str:
    """Say what an experiment that is not shipped varies: its rows do not hold its title."""
    names = headings(varying(rows)).values()
    return f"varies {', '.join(names)}" if names else "one setting"
