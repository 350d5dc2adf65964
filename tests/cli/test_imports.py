"""Commands that need no torch do not import it, misspelt runs among them."""

from __future__ import annotations

from tests.helpers import run_script

SCRIPT = """
import contextlib, io, sys
from ntdh_bench.cli import main

for words, status in [
    (["config", "list", "--sweeps"], 0),
    (["doctor"], 0),
    (["completion", "bash"], 0),
    (["cache", "list"], 0),
    (["data", "list"], 0),
    (["fit", "--config", "mnist_dkdd"], 1),
    (["fit"], 1),
    (["test"], 1),
    (["fit", "--ckpt_path", "none.ckpt"], 1),
    (["sweep", "smoe"], 1),
]:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == status, words
    imported = {"torch", "lightning", "matplotlib"} & sys.modules.keys()
    assert not imported, (words, imported)
"""


def test_torch_is_not_imported() -> None:
    run_script("from ntdh_bench.commands import doctor\ndoctor.gpus = list\n" + SCRIPT)
