"""Fetching the public data sets, only when asked: every file is checked against its published MD5 before it is kept."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.request import Request, urlopen

from trustsnn.data.problems import problem
from trustsnn.errors import DataError
from trustsnn.files import write_atomically, write_errors

_PIECE = 1 << 20
_LARGEST = 256 << 20
_TIMEOUT = 30.0


class Remote(NamedTuple):
    """A file on the network: addresses to try in turn, its MD5, and where it goes below the data root."""

    urls: tuple[str, ...]
    md5: str
    target: str


def _idx(folder: str, mirrors: tuple[str, ...], md5s: tuple[str, str, str, str]) -> tuple[Remote, ...]:
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        Remote(tuple(f"{mirror}{file}-ubyte.gz" for mirror in mirrors), md5, f"{folder}/raw/{file}-ubyte.gz")
        for file, md5 in zip(files, md5s, strict=True)
    )


REMOTE: dict[str, tuple[Remote, ...]] = {
    "mnist": _idx(
        "MNIST",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion-mnist": _idx(
        "FashionMNIST",
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "cifar10": (
        Remote(
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-binary.tar.gz",
        ),
    ),
}


def fetch(name: str, root: Path) -> None:
    """Bring the files of a data set below `root`. Raises DataError when no address gives a file with the right checksum."""
    for remote in REMOTE[name]:
        path = root / remote.target
        if not (path.is_file() and _md5(path) == remote.md5):
            download(remote, path)
        if path.name.endswith(".tar.gz"):
            unpack(path, root)
            path.unlink()


def download(remote: Remote, path: Path) -> None:
    """Stream one file to a temporary one, check its MD5, rename it to `path`. A wrong or broken file leaves nothing behind."""
    failures = []
    for url in remote.urls:
        try:
            write_atomically(path, lambda temporary, url=url: _stream(url, remote.md5, temporary))  # type: ignore[misc]
        except DataError as error:
            failures.append(str(error))
        else:
            return
    raise DataError("\n".join(failures))


def _stream(url: str, md5: str, temporary: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    mend = "Try again later, or fetch the file by hand and put it below the data root."
    with open(temporary, "wb") as file, _reading(url, mend) as (response, advance):
        while piece := _next(response, url, mend):
            received += len(piece)
            if received > _LARGEST:
                raise problem(url, f"at most {_LARGEST} bytes", "more", "The address does not give the data set any more.")
            digest.update(piece)
            file.write(piece)
            advance(len(piece))
    if digest.hexdigest() != md5:
        got = f"{digest.hexdigest()} ({received} bytes); the file was deleted"
        raise problem(url, f"a file with MD5 {md5}", got, mend)


def _next(response: BinaryIO, url: str, mend: str) -> bytes:
    try:
        return response.read(_PIECE)
    except (OSError, HTTPException) as error:
        raise problem(url, "the whole file", error, mend) from error


@contextmanager
def _reading(url: str, mend: str) -> Iterator[tuple[BinaryIO, Callable[[int], object]]]:
    try:
        response: Any = urlopen(Request(url, headers={"User-Agent": "trustsnn"}), timeout=_TIMEOUT)
    except (OSError, HTTPException) as error:
        raise problem(url, "an answer with the file", error, mend) from error
    with response, _progress(url.rpartition("/")[2], response.headers.get("Content-Length")) as advance:
        yield response, advance


@contextmanager
def _progress(label: str, length: str | None) -> Iterator[Callable[[int], object]]:
    """A bar on the terminal; nothing where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=int(length) if length and length.isdigit() else None)
        yield lambda count: bar.update(task, advance=count)


def unpack(archive: Path, root: Path) -> None:
    """Unpack a .tar.gz into `root`, file by file: nothing lands outside, and a file is whole or absent."""
    with write_errors(root), tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as folder:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                if sum(member.size for member in tar) > _LARGEST:
                    raise problem(archive, f"at most {_LARGEST} bytes unpacked", "more", "Delete it and fetch it again.")
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise problem(archive, "a safe, whole archive", error, "Delete it and fetch it again.") from error
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                target = root / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


def _md5(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
