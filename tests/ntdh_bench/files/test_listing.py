from __future__ import annotations

from pathlib import Path

from ntdh_bench.files.listing import is_shadow, visible


def test_hidden_files_and_shadows_are_no_data(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "._a.png", ".DS_Store", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    assert [path.name for path in visible(tmp_path, "*.png")] == ["a.png", "b.png"]
    assert visible(tmp_path / "none") == []
    assert is_shadow(Path("x/__MACOSX/a.png"))
    assert not is_shadow(Path("x/a.png"))
