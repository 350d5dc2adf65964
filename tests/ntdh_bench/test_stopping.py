from __future__ import annotations

import os
import signal

import pytest

from ntdh_bench.stopping import Stopped, raise_stopped, stoppable


def test_a_signal_ends_the_block_and_handlers_are_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM$") as stop, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("error", [SystemExit(1), RuntimeError("unexpected pos 64 vs 0")])
def test_what_libraries_make_of_an_interruption_is_still_one(error: BaseException) -> None:
    """Lightning exits with the status 1; torch.save fails in its own way."""

    def library() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise error from None

    def command() -> None:
        try:
            library()
        except BaseException as caught:
            raise_stopped(caught, "go on so")
            raise

    with pytest.raises(Stopped) as stop, stoppable():
        command()
    assert stop.value.status == 130
    assert str(stop.value) == "stopped by SIGINT: go on so"


def test_other_errors_pass() -> None:
    with pytest.raises(SystemExit, match="2"), stoppable():
        raise SystemExit(2)
