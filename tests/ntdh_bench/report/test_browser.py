"""The page in a real browser: no errors, no sideways scrolling on a phone, sorting and filters."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

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


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works(built: Path, tmp_path: Path, width: int) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    frame = tmp_path / "frame.html"
    shutil.copy(built / "index.html", tmp_path)
    frame.write_text(_FRAME.format(width=width))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    text = some(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL))
    found = json.loads(unescape(text[1]))
    assert found["width"] <= width
    order = ["holds", "fails", "inconclusive", "not run"]
    assert found["up"] == sorted(found["before"], key=order.index)
    assert found["down"] == sorted(found["before"], key=order.index, reverse=True)
    assert found["sort"] == "descending"
    assert found["filtered"] == [verdict for verdict in found["down"] if verdict != "not run"]
    assert len(found["before"]) > len(found["filtered"]) > 0
    assert len(found["drawings"]) > 10
    assert all(300 <= drawing <= width for drawing in found["drawings"])
    assert found["smallest"] >= 9  # pixels: letters that can be read
