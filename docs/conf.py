"""How Sphinx builds the documentation: `sphinx-build -W docs build/docs`, without a network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
# What is documented is the working tree.
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import ntdh_bench  # noqa: E402

project = "ntdh-bench"
author = copyright = "The ntdh-bench contributors"
version = release = ntdh_bench.__version__

extensions = [
    "facts",
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True  # attributes in the docstring of their class, not once more beside it

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"ntdh-bench {version}"
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"

linkcheck_timeout = 20
linkcheck_retries = 2


def setup(app: Sphinx) -> None:
    """Make pages of the results; the page of all of them is whole, and is put beside these."""
    source, pages = HERE.parent / "results", HERE / "results"
    shutil.rmtree(pages, ignore_errors=True)
    for path in [*source.rglob("*.md"), *source.rglob("*.svg")]:
        target = pages / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)

    def add_page(app: Sphinx, error: Exception | None) -> None:
        if error is None and app.builder.format == "html":
            shutil.copy2(source / "index.html", Path(app.outdir) / "results")

    app.connect("build-finished", add_page)
