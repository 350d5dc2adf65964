"""Parts of which pages are made: badges, tables that scroll and sort, drawings, links to files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ntdh_bench.report.html import Html, el, join
from ntdh_bench.report.wording import VERDICT_SIGNS

_FOLDER = Path(__file__).parent


def document(
    title: str, top: Html, sections: Mapping[str, str], body: Html, foot: Html, style: str = ""
) -> str:
    """Return a page with its styles and script inside, which loads nothing.

    Args:
        title: of the window.
        top: what comes before the links to the sections.
        sections: the headings of the sections in ``body`` by their ids.
        body: the sections.
        foot: what comes last.
        style: of this page alone.
    """
    common, script = ((_FOLDER / name).read_text("utf-8") for name in ("page.css", "page.js"))
    head = join(
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"ntdh-bench: {title}"),
        el("link", rel="icon", href="data:,"),
        el("style", Html(common + style)),
    )
    links = [el("li", el("a", text, href=f"#{name}")) for name, text in sections.items()]
    page = join(
        el("a", "Skip to the content", class_="skip", href=f"#{next(iter(sections))}"),
        top,
        el("nav", el("ul", *links), aria_label="Sections"),
        el("main", body),
        el("footer", foot),
        el("script", Html(script)),
    )
    return f"<!doctype html>\n{el('html', el('head', head), el('body', page), lang='en')}\n"


def section(name: str, heading: str, *content: str) -> Html:
    """Return a section of a page, to which a link of its name leads."""
    return el("section", el("h2", heading), *content, id=name, aria_label=heading)


def badge(text: str, kind: str | None = None) -> Html:
    """Return a word in a frame, in the colour of its kind: itself, unless given."""
    return el("span", text, class_=f"badge {(kind or text).replace(' ', '-')}")


def verdict_badge(verdict: str) -> Html:
    """Return a verdict with its sign, so that colour is not all that tells it."""
    sign = VERDICT_SIGNS.get(verdict)
    return badge(f"{sign} {verdict}" if sign else verdict, verdict)


def scroll(table: Html, label: str) -> Html:
    """Return a table in a box that scrolls sideways where it is wider than the screen."""
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def heads(names: Iterable[str], text: int, sortable: bool = True) -> Html:
    """Return a row of headers, the first ``text`` of them over text; a click on one may sort."""
    return el(
        "tr",
        *(
            el(
                "th",
                el("button", name, type="button") if sortable else name,
                scope="col",
                class_="text" if place < text else None,
            )
            for place, name in enumerate(names)
        ),
    )


def sort_value(value: float | None) -> str:
    """Return what a cell of a sortable table is sorted by."""
    return "" if value is None else f"{value:.6g}"


def labelled(svg: str, label: str) -> Html:
    """Return a drawing with a name for screen readers."""
    name = str(el("x", aria_label=label)).removeprefix("<x ").removesuffix("></x>")
    return el("div", Html(svg.replace("<svg", f'<svg role="img" {name}', 1)))


def file_links(files: Sequence[str]) -> Html:
    """Return links to files in the results folder."""
    titles = {name: Path(name).suffix[1:].upper() if "/" in name else name for name in files}
    links = [join(" ", el("a", title, href=name)) for name, title in titles.items()]
    return el("p", "Files:", *links, class_="files") if links else Html()
