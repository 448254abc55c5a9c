"""Small trained models that many tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, and torch reads this when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


def data_root() -> Path | None:
    """Where real data lies, if anywhere: TRUSTSNN_DATA, or shared/data beside the checkout."""
    for place in (os.environ.get("TRUSTSNN_DATA"), ROOT.parent / "shared" / "data"):
        if place and Path(place).is_dir():
            return Path(place)
    return None


@pytest.fixture(scope="session")
def digits_train():
    from trustsnn.data import load

    return load("digits", "train")


@pytest.fixture(scope="session")
def digits_test():
    from trustsnn.data import load

    return load("digits", "test")


def _trained(data, encoder: str):
    from trustsnn.models import build
    from trustsnn.training import TrainConfig, train

    model = build("conv", input_shape=(1, 8, 8), classes=10, channels=0.5, encoder=encoder)
    train(model, data, TrainConfig(epochs=8, batch_size=64, learning_rate=4e-3))
    return model


@pytest.fixture(scope="session")
def digits_model(digits_train):
    """A convolutional network with direct coding, about 98 % on digits. Do not change it."""
    return _trained(digits_train, "direct")


@pytest.fixture(scope="session")
def poisson_model(digits_train):
    """The same with Poisson coding: stochastic. Do not change it."""
    return _trained(digits_train, "poisson")


@pytest.fixture
def one_thread():
    """torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_process(monkeypatch):
    """The command line can be run in this process, whose allocator and waiting stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer's own, of click
        for module in ("typer.testing", "trustsnn.cli.main"):
            import_module(module)
    for setting in ("keep_freed_memory", "sleep_while_waiting"):
        monkeypatch.setattr(f"trustsnn.process.{setting}", lambda: None)


@pytest.fixture
def here(in_process, monkeypatch, capsys, tmp_path):
    """A function that runs the entry point with these words in `tmp_path`, in this process for speed: exit code and what it prints."""
    import torch

    from trustsnn.cli.main import main

    threads = torch.get_num_threads()

    def invoke(*arguments, cwd=tmp_path):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in arguments])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    yield invoke
    torch.set_num_threads(threads)
    sys.modules.pop("own", None)


@pytest.fixture
def said(here):
    """As `here`: what a command prints, its errors where it is to exit with another `code` than 0."""

    def said(*arguments, code=0):
        done = here(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    return said


@pytest.fixture
def cli(in_process, monkeypatch, tmp_path):
    """A function that runs a command in `tmp_path`, in this process for speed: its output, or the error that it ends with."""
    from typer.testing import CliRunner

    from trustsnn.cli.main import app
    from trustsnn.errors import TrustSNNError

    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, text=None):
        done = CliRunner().invoke(app, [str(each) for each in arguments], input=text)
        if isinstance(done.exception, TrustSNNError):
            raise done.exception
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return invoke


@pytest.fixture
def joined():
    """A function that joins run folders as `trustsnn leakage report` does: the outcomes by kind, and the page."""
    from trustsnn.reports.leakage_report import page, read, report

    def join(*folders):
        runs = read(folders)
        record = report(runs)
        return record["outcomes"], page(runs, record, folders[0])

    return join


@pytest.fixture(scope="session")
def chromium():
    """A context manager that opens a Chromium; without one the test is skipped."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

    @contextmanager
    def opened():
        sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip(f"needs a Chromium: none of {', '.join(names)} is on the path")
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=words)
            yield browser
            browser.close()

    return opened


@pytest.fixture(scope="session")
def sideways():
    """A function that gives those of some widths of a window in which a page, all of it unfolded, has to be scrolled sideways."""

    def wide(browser, address, widths):
        page = browser.new_page()
        try:
            page.goto(address)
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            found = []
            for width in widths:
                page.set_viewport_size({"width": width, "height": 800})
                if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                    found.append(width)
            return found
        finally:
            page.close()

    return wide


@pytest.fixture
def fits(chromium, sideways):
    """A function that fails where a page needs sideways scrolling, from a phone's width to a desktop's. Ask it last: it may skip."""

    def fits(path):
        with chromium() as browser:
            assert sideways(browser, path.resolve().as_uri(), (320, 480, 570, 640, 730, 800, 910, 1010, 1280)) == []

    return fits
