from __future__ import annotations

import pytest

from ntdh_bench.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "prpare", "mnist"], "ACTION 'prpare': did you mean 'prepare'? choose from list"),
        (["cache", "list", "--knd", "x"], "there is no --knd: did you mean '--kind'? see --help"),
        (["sweep", "smoke", "--engine", "rai"], "--engine 'rai': did you mean 'ray'?"),
        (["sweep", "smoke", "--dry"], "there is no --dry: did you mean '--dry-run'?"),
    ],
)
def test_what_is_misspelt_is_one_line_with_what_was_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ntdh-bench {words[0]}")
    assert said in line
