"""What to do with it, on the page: where cross-modal KD helped, by data set and by method."""

from __future__ import annotations

from collections.abc import Sequence

from ntdh_bench.records.columns import by_key
from ntdh_bench.report import wording
from ntdh_bench.report.elements import heads, scroll, sort_value
from ntdh_bench.report.html import Html, el, join
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.study.results import Guide, GuideLine, GuideMethod

_ADVICE = (
    "Measure a gain against the same student trained without KD under the same weight of the task "
    "loss (equal task): a halved cross entropy alone can cost more than KD gives. A method helped "
    "where its gains over both controls, equal task and without KD, lie reliably above 0, and hurt "
    "where one lies below."
)
_FEW = (
    "The best of many is the best partly by luck. Intervals are over seeds, not corrected for the "
    "number of methods: descriptive, no claim."
)


def guide_section(guide: Guide) -> Html:
    """Return the section; empty before any run."""
    if not guide.lines:
        return Html()
    return join(
        el("h3", "What to do with it"),
        el("p", _ADVICE),
        el("ul", *(el("li", text) for text in guide.advice)) if guide.advice else "",
        el("h4", "When it helped: data sets and directions"),
        _settings_table(guide.lines),
        el("h4", "Which method"),
        _methods_table(guide.methods),
        el("p", _FEW, class_="note"),
        el("details", el("summary", f"All {len(guide.lines)} gains"), _all(guide.lines)),
    )


def _settings_table(lines: Sequence[GuideLine]) -> Html:
    names = ("data set", "protocol", "teacher sees", "teacher's lead", "gain of KD",
             "best method", "its gain", "helped", "hurt", "methods")  # fmt: skip
    groups = by_key(lines, lambda line: (line.dataset, line.protocol, line.teacher))
    table = el(
        "table",
        el("thead", heads(names, 3)),
        el("tbody", *(_setting(own) for own in groups.values())),
        class_="dense",
    )
    return scroll(table, "Gains by data set and direction")


def _setting(own: Sequence[GuideLine]) -> Html:
    first, best = own[0], max(own, key=lambda line: line.gain.mean)
    plain = next((line.gain for line in own if line.method == "KD"), None)
    return el(
        "tr",
        el("th", first.dataset, scope="row"),
        el("td", first.protocol, class_="text"),
        el("td", first.teacher, class_="text"),
        _number(first.lead),
        _number(plain),
        el("td", best.method),
        _number(best.gain),
        *_counts(own),
        el("td", str(len(own))),
    )


def _methods_table(methods: Sequence[GuideMethod]) -> Html:
    names = ("method", "mean gain over data sets", "over equal task", "data sets", "helped",
             "hurt", "settings")  # fmt: skip
    body = [
        el(
            "tr",
            el("th", of.method, scope="row"),
            _number(of.gain),
            _number(of.gain_equal),
            el("td", str(of.gain.n)),
            el("td", str(of.helped), class_="holds" if of.helped else "none"),
            el("td", str(of.harmed), class_="fails" if of.harmed else "none"),
            el("td", str(of.lines)),
        )
        for of in methods
    ]
    return scroll(el("table", el("thead", heads(names, 1)), el("tbody", *body)), "Gains by method")


def _counts(lines: Sequence[GuideLine]) -> list[Html]:
    found = [line.helped for line in lines]
    return [
        el("td", str(found.count(value)), class_=kind if found.count(value) else "none")
        for value, kind in ((True, "holds"), (False, "fails"))
    ]


def _all(lines: Sequence[GuideLine]) -> Html:
    names = ("data set", "protocol", "teacher sees", "method", "gain over w/o KD",
             "gain over equal task", "helped", "experiment")  # fmt: skip
    body = [
        el(
            "tr",
            el("th", line.dataset, scope="row"),
            *(el("td", text, class_="text") for text in (line.protocol, line.teacher, line.method)),
            _number(line.gain),
            _number(line.gain_equal),
            el("td", {True: "helped", False: "hurt", None: "–"}[line.helped]),
            el("td", line.experiment, class_="text"),
        )
        for line in lines
    ]
    return scroll(el("table", el("thead", heads(names, 4)), el("tbody", *body)), "All gains")


def _number(found: Estimate | None) -> Html:
    value = sort_value(found.mean if found else None)
    return el("td", wording.estimate(found), data_value=value)
