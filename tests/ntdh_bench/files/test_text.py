from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.errors import LONGEST, FileError
from ntdh_bench.files.text import read_json, read_text, read_yaml

SECRET = "root:x:0:0"


def _refused(read: object, path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with pytest.raises(FileError, match=match) as caught:
        read(path)  # type: ignore[operator]
    message = str(caught.value)
    assert str(path) in message
    assert len(message) <= LONGEST
    assert SECRET not in message


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffgrün".encode())
    assert read_text(path) == "grün"
    _refused(read_text, path, b"\xff\xfe", "not UTF-8 text")
    _refused(lambda p: read_text(p, max_bytes=3), path, b"1234", "4 bytes, expected at most 3")
    with pytest.raises(FileError, match="no regular file"):
        read_text(tmp_path)
    with pytest.raises(FileError, match=r"gone is missing; get it again"):
        read_text(tmp_path / "gone")


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, 2.5, null]}')
    assert read_json(path) == {"a": [1, 2.5, None]}
    for content in (b"", b"{", b"[" * 100_000, b"NaN", b"[1e999]", b"1" * 5000):
        _refused(read_json, path, content, "not JSON")
    _refused(read_json, path, f"{SECRET} {{".encode(), "line 1, column 1")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a: {b", "not valid YAML"),
        (f"{SECRET}\n a: - [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "a tag"),
        ("a: !mine 1", "a tag"),
        ("a: 1\nb: 2\na: 3", "given twice"),
        ("day: 2026-11-27", "date"),
        ("a: &x [*x]", "holds itself"),
        ("1: 2", "put it in quotes"),
        ("a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
         "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
         "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n", "more than"),
        ("[" * 5000, "not valid YAML|levels"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(tmp_path: Path, content: str, match: str) -> None:
    _refused(read_yaml, tmp_path / "x.yaml", content.encode(), match)


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &x {b: 1}\nc: {<<: *x, d: [1.5, true, null, text]}\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1, "d": [1.5, True, None, "text"]}}
    path.write_text("# nothing\n")
    assert read_yaml(path) is None


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "+1E-3", ".1e-2", "1_0e-4"])
def test_numbers_with_an_exponent_are_numbers(text: str, tmp_path: Path) -> None:
    """As the command line's parser reads them: PyYAML alone takes them for text."""
    path = tmp_path / "a.yaml"
    path.write_text(f"lr: {text}\nname: {text}x\nquoted: '{text}'\n")
    assert read_yaml(path) == {"lr": 0.001, "name": f"{text}x", "quoted": text}
