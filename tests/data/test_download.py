"""Fetching, against a server on this machine only."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from trustsnn.data import download, load
from trustsnn.errors import DataError


class Server:
    """Serves `files`, counts the requests, and cuts the answer of a path in `cut` short."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        self.url = ""

    def remote(self, path: str, content: bytes, target: str, md5: str | None = None) -> download.Remote:
        self.files[path] = content
        return download.Remote((self.url + path,), md5 or hashlib.md5(content).hexdigest(), target)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            content = state.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write((content or b"")[: 5 if self.path in state.cut else None])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def left(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_mnist_is_fetched_only_when_asked_and_only_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remotes = []
    for remote, shape in zip(download.REMOTE["mnist"], [(3, 28, 28), (3,), (2, 28, 28), (2,)], strict=True):
        header = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
        content = gzip.compress(header + bytes(int(np.prod(shape))))
        remotes.append(server.remote("/" + remote.target.rpartition("/")[2], content, remote.target))
    monkeypatch.setitem(download.REMOTE, "mnist", tuple(remotes))
    with pytest.raises(DataError, match="--download"):
        load("mnist", root=tmp_path)
    assert server.asked == []
    assert len(load("mnist", "test", root=tmp_path, download=True)) == 2
    assert len(load("mnist", "train", root=tmp_path, download=True)) == 3
    assert len(server.asked) == 4
    assert left(tmp_path) == sorted(remote.target for remote in remotes)


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    remote = server.remote("/a", b"altered", "a.bin", md5=hashlib.md5(b"original").hexdigest())
    with pytest.raises(DataError, match=r"expected a file with MD5 .*the file was deleted"):
        download.download(remote, tmp_path / "a.bin")
    assert left(tmp_path) == []


def test_a_wrong_checksum_leaves_the_old_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    remote = server.remote("/a", b"altered", "a.bin", md5="0" * 32)
    with pytest.raises(DataError):
        download.download(remote, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_missing_short_and_too_long_answers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = server.remote("/a", b"0123456789", "a.bin")
    server.cut.add("/a")
    with pytest.raises(DataError, match=f"{server.url}/a: expected"):
        download.download(remote, tmp_path / "a.bin")
    server.cut.clear()
    monkeypatch.setattr(download, "_LARGEST", 9)
    with pytest.raises(DataError, match="at most 9 bytes"):
        download.download(remote, tmp_path / "a.bin")
    del server.files["/a"]
    with pytest.raises(DataError, match="404"):
        download.download(remote, tmp_path / "a.bin")
    closed = download.Remote(("http://127.0.0.1:9/a",), "0" * 32, "a.bin")
    with pytest.raises(DataError, match="an answer with the file"):
        download.download(closed, tmp_path / "a.bin")
    assert left(tmp_path) == []


def test_the_second_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    good = server.remote("/good", b"content", "a.bin")
    server.files["/bad"] = b"altered"
    download.download(good._replace(urls=(server.url + "/bad", server.url + "/good")), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"content"


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar_is_fetched_and_unpacked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive({f"cifar-10-batches-bin/{name}.bin": bytes(3073 * 2) for name in ("data_batch_1", "test_batch")})
    monkeypatch.setitem(download.REMOTE, "cifar10", (server.remote("/c.tar.gz", content, "c.tar.gz"),))
    assert len(load("cifar10", root=tmp_path, download=True)) == 2
    assert left(tmp_path) == ["cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/test_batch.bin"]
    assert len(load("cifar10", "train", root=tmp_path, download=True)) == 2
    assert len(server.asked) == 1


def link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("inside")
        info.type, info.linkname = tarfile.SYMTYPE, "../.."
        tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [archive({"../evil": b"x"}), link(), b"no archive", archive({"a": b"x"})[:20]],
    ids=["outside", "link", "no archive", "cut short"],  # an archive holds the time at which it was made
)
def test_unsafe_and_broken_archives(tmp_path: Path, content: bytes) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "c.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match="safe, whole archive"):
        download.unpack(root / "c.tar.gz", root)
    assert left(tmp_path) == ["root/c.tar.gz"]


def test_an_archive_that_unpacks_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.tar.gz").write_bytes(archive({"a": bytes(50), "b": bytes(51)}))
    monkeypatch.setattr(download, "_LARGEST", 100)
    with pytest.raises(DataError, match="at most 100 bytes unpacked"):
        download.unpack(tmp_path / "c.tar.gz", tmp_path)


def test_the_published_checksums() -> None:
    """The MD5s that torchvision and the authors' own pages publish for these files."""
    md5s = {remote.target.rpartition("/")[2]: remote.md5 for remote in download.REMOTE["mnist"]}
    assert md5s["train-images-idx3-ubyte.gz"] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert md5s["t10k-labels-idx1-ubyte.gz"] == "ec29112dd5afa0611ce80d1b7f02629c"
    every = [remote for remotes in download.REMOTE.values() for remote in remotes]
    assert len({remote.md5 for remote in every}) == len(every) == 9
    assert all(len(remote.md5) == 32 for remote in every)
