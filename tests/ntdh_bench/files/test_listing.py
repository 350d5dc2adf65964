from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.errors import UserError
from ntdh_bench.files.listing import below, is_shadow, visible


def test_hidden_files_and_shadows_are_no_data(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "._a.png", ".DS_Store", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    assert [path.name for path in visible(tmp_path, "*.png")] == ["a.png", "b.png"]
    assert visible(tmp_path / "none") == []
    assert is_shadow(Path("x/__MACOSX/a.png"))
    assert not is_shadow(Path("x/a.png"))


def test_links_to_folders_are_followed_and_no_folder_is_looked_into_twice(tmp_path: Path) -> None:
    real, root = tmp_path / "real", tmp_path / "root"
    for folder in (real / "a" / "images", root / ".hidden", root / "__MACOSX"):
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(b"")
    (real / "a" / "._1.jpg").write_bytes(b"")
    (root / "first").symlink_to(real)
    (root / "second").symlink_to(real)
    (real / "a" / "round").symlink_to(root)
    found = [path.relative_to(root).as_posix() for path in below(root, "images/*.jpg")]
    assert found == ["first/a/images/1.jpg"]
    folders = {path.relative_to(root).as_posix() for path in below(root)}
    assert {"first", "second", "first/a/images", "first/a/round"} <= folders
    assert not list(below(tmp_path / "real" / "none", unreadable=lambda error: None))


def test_a_folder_that_cannot_be_read_is_named_or_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: cannot be read"):
        list(below(tmp_path / "none"))
    told: list[str] = []
    assert not list(below(tmp_path / "none", unreadable=lambda error: told.append(error.filename)))
    assert told == [str(tmp_path / "none")]
