"""A run function whose worker is killed while it starts, as often as ``STUBS_KILLS`` says."""

import os
import signal
from pathlib import Path

from stubs import run as run  # type: ignore[import-not-found]

_starts = Path(os.environ["STUBS_STARTS"])
with _starts.open("a") as _file:
    _file.write("x")
if len(_starts.read_text()) <= int(os.environ["STUBS_KILLS"]):
    os.kill(os.getpid(), signal.SIGKILL)
