"""The page in a real browser: no errors, no sideways scrolling on a phone, sorting and filters."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, cast

import pytest

from ntdh_bench.report.build import build
from ntdh_bench.report.claims import VERDICTS
from ntdh_bench.report.studies import Added
from ntdh_bench.study.page import front
from tests.ntdh_bench.study.studies import full_study
from tests.typed import some

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# A frame as wide as a screen, and what happens in it once the page is there.
_FRAME = """<!doctype html><iframe src="index.html" width="{width}" height="800"></iframe>
<pre id="found"></pre><script>
window.onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const ledger = page.querySelector("#ledger");
  const button = ledger.querySelector("thead button");
  const verdicts = () => [...ledger.tBodies[0].rows].filter((row) => !row.hidden)
    .map((row) => row.dataset.verdict);
  const before = verdicts();
  button.click();
  const up = verdicts();
  button.click();
  const down = verdicts();
  const box = page.querySelector('input[value="not run"]');
  box.click();
  document.querySelector("#found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    before, up, down, filtered: verdicts(),
    sort: button.closest("th").getAttribute("aria-sort"),
    drawings: [...page.querySelectorAll(".panels svg")]
      .map((svg) => svg.getBoundingClientRect().width),
    smallest: Math.min(...[...page.querySelectorAll(".panels svg text")]
      .map((text) => text.getBoundingClientRect().height)),
  }});
}};
</script>"""

# The same of a page that opens on a study: what is on the first screen, and what a link opens.
_FRONT = """<!doctype html><iframe src="index.html#P2" width="{width}" height="800"></iframe>
<pre id="found"></pre><script>
window.onload = () => {{
  const frame = document.querySelector("iframe");
  const page = frame.contentDocument;
  const opened = [...page.querySelectorAll("details")].filter((element) => element.open)
    .map((element) => element.querySelector("summary").textContent);
  frame.contentWindow.scrollTo({{top: 0, behavior: "instant"}});
  const end = (selector) => page.querySelector(selector).getBoundingClientRect().bottom;
  const colour = (name) => frame.contentWindow.getComputedStyle(page.body)[name];
  document.querySelector("#found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, opened,
    ends: [".opening p", ".headline", ".verdicts", ".opening svg"].map(end),
    smallest: Math.min(...[...page.querySelectorAll(".opening svg text")]
      .map((text) => text.getBoundingClientRect().height)),
    colours: [colour("color"), colour("backgroundColor")],
  }});
}};
</script>"""


def visit(page: Path, frame: str, width: int, *flags: str) -> dict[str, Any]:
    """Open a copy of a page in a frame, and return what that finds."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    (page.parent / "frame.html").write_text(frame.format(width=width))
    given = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    given += ["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", *flags]
    done = subprocess.run(
        [browser, *given, page.with_name("frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    text = some(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL))
    return cast("dict[str, Any]", json.loads(unescape(text[1])))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_a_study_is_on_the_first_screen(
    results: Path, monkeypatch: pytest.MonkeyPatch, width: int, dark: bool
) -> None:
    added = Added({"study.md": ""}, front(full_study(), ("study.md",)))
    monkeypatch.setattr("ntdh_bench.report.build.studies", lambda: [lambda rows: added])
    build(results, results / "no-store")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    found = visit(results / "index.html", _FRONT, width, scheme)
    assert found["width"] <= width
    assert [summary[:2] for summary in found["opened"]] == ["P2"]
    question, answered, verdicts, forest = found["ends"]
    assert question < answered < 800
    assert width == 390 or max(verdicts, forest) < 800
    assert found["smallest"] >= 9  # pixels
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found["colours"])
    assert (ink > paper + 380) if dark else (paper > ink + 380)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works(built: Path, tmp_path: Path, width: int) -> None:
    shutil.copy(built / "index.html", tmp_path)
    found = visit(tmp_path / "index.html", _FRAME, width)
    assert found["width"] <= width
    order = list(VERDICTS)
    assert found["up"] == sorted(found["before"], key=order.index)
    assert found["down"] == sorted(found["before"], key=order.index, reverse=True)
    assert found["sort"] == "descending"
    assert found["filtered"] == [verdict for verdict in found["down"] if verdict != "not run"]
    assert len(found["before"]) > len(found["filtered"]) > 0
    assert len(found["drawings"]) > 10
    assert all(300 <= drawing <= width for drawing in found["drawings"])
    assert found["smallest"] >= 9  # pixels: letters that can be read
