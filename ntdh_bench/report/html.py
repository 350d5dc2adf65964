"""Building HTML: elements whose text is escaped, unless it is markup already."""

from __future__ import annotations

from html import escape


class Html(str):
    """Markup; any other string is text."""

    __slots__ = ()


def el(name: str, /, *content: str, **attributes: str | int | bool | None) -> Html:
    """Return an element.

    Args:
        name: of the tag.
        content: markup, or text to be escaped.
        attributes: ``class_`` and ``for_`` lose their underscore, others become dashes; None and
            False leave one out, True gives one without a value.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    words = [name, *(_attribute(key, value) for key, value in given.items())]
    start = f"<{' '.join(filter(None, words))}>"
    if name in ("br", "img", "input", "link", "meta"):
        return Html(start)
    return Html(f"{start}{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Return pieces of markup and text in a row."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in content))


def _attribute(name: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    return name if value is True else f'{name}="{escape(str(value))}"'
