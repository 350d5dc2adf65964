from __future__ import annotations

from ntdh_bench.errors import LONGEST, UserError


def test_an_error_is_one_printable_line() -> None:
    assert str(UserError("a\n b\x00\x1b[31mc\t d")) == "a b [31mc d"


def test_a_long_error_keeps_its_beginning_and_its_end() -> None:
    text = str(UserError(f"start {'x' * 10_000} end"))
    assert len(text) == LONGEST
    assert text.startswith("start x")
    assert text.endswith("x end")
    assert " ... " in text
