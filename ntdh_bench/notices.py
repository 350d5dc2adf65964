"""What a command says beside its results: a line at a time on standard error, from one process."""

from __future__ import annotations

import os
import sys

from ntdh_bench.errors import one_line


def notice(text: str) -> None:
    """Say one line; of several processes of a run only the first does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"ntdh-bench: note: {one_line(text)}\n")
        sys.stderr.flush()
