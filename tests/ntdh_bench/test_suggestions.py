from __future__ import annotations

from ntdh_bench.suggestions import did_you_mean, nearest


def test_case_does_not_count_and_far_words_are_none() -> None:
    assert did_you_mean("dkd", ["KD", "DKD", "CRD"]) == "did you mean 'DKD'? "
    assert nearest("mnist_dkt", ["mnist_kd", "mnist_dkd", "wiki"], 2) == ["mnist_dkd", "mnist_kd"]
    assert did_you_mean("zzz", ["KD", "DKD"]) == ""
    assert did_you_mean("K" * 10**7, ["KD"]) == ""  # of a file: no minutes are spent on it
