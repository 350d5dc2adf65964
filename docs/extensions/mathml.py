"""Formulas as MathML, which browsers draw themselves: pages need no network and no script."""

from __future__ import annotations

import re
import unicodedata

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_STYLED = re.compile(r'<mi mathvariant="(script|double-struck)">([A-Z])</mi>')


def mathml(latex: str, display: str) -> str:
    """Return a formula; letters of a style are characters, as browsers leave the attribute out."""
    return _STYLED.sub(_character, convert(latex, display=display))


def _character(found: re.Match[str]) -> str:
    name = f"{found[1].upper()} CAPITAL {found[2]}"
    for known in (name, f"MATHEMATICAL {name}"):
        try:
            return f"<mi>{unicodedata.lookup(known)}</mi>"
        except KeyError:
            continue
    return found[0]


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    formula = mathml(node.astext(), "block")
    self.body.append(self.starttag(node, "div", CLASS="math") + formula + "</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Be the renderer of formulas in HTML."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
