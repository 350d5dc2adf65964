from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench import downloads
from ntdh_bench.downloads import extract, url_fault
from ntdh_bench.errors import UserError

CONTENT = bytes(range(256)) * 4000  # about 1 MB: several blocks


class Server(ThreadingHTTPServer):
    """Serves ``files`` with Range; the n-th request breaks after ``breaks[n]`` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.breaks: list[int | None] = []
        self.ranges: list[str | None] = []
        self.refusals: list[int] = []
        self.with_range = True
        self.with_length = True
        self.type = "application/gzip"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        stop = server.breaks.pop(0) if server.breaks else None
        if server.refusals or self.path not in server.files:
            self.send_error(server.refusals.pop(0) if server.refusals else 404)
            return
        content = server.files[self.path]
        wanted = self.headers.get("Range") if server.with_range else None
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if first >= len(content) and wanted:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if server.with_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.send_header("Content-Type", server.type)
        self.end_headers()
        self.wfile.write(content[first:][:stop])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def check(path: Path) -> str | None:
    same = hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    return None if same else "checksum differs"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a mirror once, where others are tried again."""
    monkeypatch.setattr(downloads, "_ATTEMPTS", 1)


def fetch(path: Path, *urls: str, **options: Any) -> Path:
    return downloads.download(urls, path, **{"max_bytes": 10**7, "check": check} | options)


def test_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    path = fetch(tmp_path / "new" / "file", f"{server.url}/file")
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    fetch(path, "http://127.0.0.1:1/nobody")  # there already: asks no one


def test_broken_connection_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks = [400_000, 300_000]
    assert fetch(tmp_path / "file", f"{server.url}/file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-", "bytes=700000-"]


@pytest.mark.usefixtures("once")
def test_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.breaks = [400_000]
    with pytest.raises(UserError, match=r"the connection broke after 400000 of 1024000.*resumes"):
        fetch(tmp_path / "file", f"{server.url}/file")
    assert not (tmp_path / "file").exists()
    fetch(tmp_path / "file", f"{server.url}/file")
    assert server.ranges == [None, "bytes=400000-"]


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.with_range = False
    server.breaks = [400_000]
    assert fetch(tmp_path / "file", f"{server.url}/file").read_bytes() == CONTENT


def test_complete_part_file_is_taken(server: Server, tmp_path: Path) -> None:
    with pytest.raises(KeyError):  # as if interrupted between the last byte and the check
        fetch(tmp_path / "file", f"{server.url}/file", check={}.__getitem__)
    assert fetch(tmp_path / "file", f"{server.url}/file").read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={len(CONTENT)}-"


@pytest.mark.parametrize("damaged", [b"x" + CONTENT[1:400_000], bytes(len(CONTENT) + 5)])
def test_a_part_file_that_is_corrupt_or_too_long_is_fetched_anew(
    damaged: bytes, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(KeyError):
        fetch(tmp_path / "file", f"{server.url}/file", check={}.__getitem__)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(damaged)
    assert fetch(tmp_path / "file", f"{server.url}/file").read_bytes() == CONTENT


def test_corrupt_mirror_is_passed_over(server: Server, tmp_path: Path) -> None:
    server.files["/corrupt"] = CONTENT[:-1] + b"?"
    urls = [f"{server.url}/absent", f"{server.url}/corrupt", f"{server.url}/file"]
    assert fetch(tmp_path / "file", *urls).read_bytes() == CONTENT
    assert len(server.ranges) == 3


def test_a_web_page_is_called_that(server: Server, tmp_path: Path) -> None:
    server.files["/page"] = b"\n<!DOCTYPE html><html>Too many requests</html>"
    with pytest.raises(UserError, match=r"cannot download file: .*a web page came instead of the"):
        fetch(tmp_path / "file", f"{server.url}/page")
    assert not list(tmp_path.iterdir())


def test_an_address_answers(server: Server) -> None:
    assert url_fault(f"{server.url}/file") is None
    assert server.ranges == ["bytes=0-0"]
    assert url_fault(f"{server.url}/absent") == "HTTP 404 Not Found"
    assert len(server.ranges) == 2  # what is not there is not asked again
    server.type = "text/html; charset=utf-8"
    assert url_fault(f"{server.url}/file") == "a web page came instead of the file"
    assert url_fault(f"{server.url}/file", page=True) is None


def test_an_address_is_asked_again(server: Server) -> None:
    server.refusals = [503, 429]
    assert url_fault(f"{server.url}/file") is None
    assert len(server.ranges) == 3
    server.refusals = [503] * 9
    assert url_fault(f"{server.url}/file") == "HTTP 503 Service Unavailable"
    assert str(url_fault("http://127.0.0.1:1/nobody")).startswith("URLError: ")


def test_all_mirrors_failing_names_each(server: Server, tmp_path: Path) -> None:
    server.files["/corrupt"] = b"?"
    with pytest.raises(UserError) as caught:
        fetch(tmp_path / "file", f"{server.url}/absent", f"{server.url}/corrupt")
    message = str(caught.value)
    assert "/absent: HTTP 404" in message
    assert "/corrupt: checksum differs" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("with_length", [True, False])
def test_too_large_a_file_is_refused(server: Server, tmp_path: Path, with_length: bool) -> None:
    server.with_length = with_length
    with pytest.raises(UserError, match="1000"):
        fetch(tmp_path / "file", f"{server.url}/file", max_bytes=1000)


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    with pytest.raises(UserError, match="only http and https"):
        fetch(tmp_path / "file", secret.as_uri())


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*taken.*--root"):
        fetch(tmp_path / "taken" / "file", f"{server.url}/file")


def archive_of(path: Path, *members: tarfile.TarInfo, content: bytes = b"hello") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    return member


LIMITS: dict[str, Any] = {"max_files": 3, "max_bytes": 10, "max_total": 20_480}


def test_only_chosen_regular_files_are_unpacked(tmp_path: Path) -> None:
    names = ("a/one.jpg", "../../evil.jpg", "/evil.jpg", "a/note.txt")
    archive = archive_of(
        tmp_path / "a.tgz", *map(tarfile.TarInfo, names), link("a/two.jpg", "/etc/passwd")
    )
    target = tmp_path / "out"
    written = extract(
        archive,
        lambda name: target / Path(name).name if name.endswith(".jpg") and "a/" in name else None,
        **LIMITS,
    )
    assert written == [target / "one.jpg"]
    assert [path.name for path in target.iterdir()] == ["one.jpg"]
    assert not list(tmp_path.parent.glob("evil*"))


def test_limits_and_broken_archives(tmp_path: Path) -> None:
    def choose(name: str) -> Path:
        return tmp_path / "out" / name

    members = [tarfile.TarInfo(f"{number}.jpg") for number in range(4)]
    with pytest.raises(UserError, match="more than the 3 files expected"):
        extract(archive_of(tmp_path / "many.tgz", *members), choose, **LIMITS)
    large = archive_of(tmp_path / "large.tgz", members[0], content=bytes(11))
    with pytest.raises(UserError, match="has 11 bytes in it"):
        extract(large, choose, **LIMITS)
    bomb = archive_of(tmp_path / "bomb.tgz", members[0], content=bytes(30_000))
    with pytest.raises(UserError, match="expands to more"):
        extract(bomb, lambda _: None, **LIMITS)
    for content in (b"no archive", large.read_bytes()[:60]):
        large.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged, or not a \.tar\.gz"):
            extract(large, choose, **LIMITS)
