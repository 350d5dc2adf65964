"""Formulas that browsers draw by themselves."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.mark.parametrize(
    ("latex", "character"), [(r"\mathcal L", "ℒ"), (r"\mathcal T", "𝒯"), (r"\mathbb R", "ℝ")]
)
def test_letters_of_a_style_are_characters(latex: str, character: str) -> None:
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("mathml", "docs/extensions/mathml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shown = module.mathml(f"{latex} = 1", "inline")
    assert f"<mi>{character}</mi>" in shown
    assert "mathvariant" not in shown
