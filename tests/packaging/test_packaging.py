"""The package as a user gets it: the wheel's content, imports from a checkout and from an installation, the pinned versions."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("attacks", "defenses", "federated", "reports")
BUILT = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "trustsnn", *FLOORS)
NO_TORCH = "import sys; sys.modules['torch'] = None; from trustsnn.cli.main import main; main(sys.argv[1:])"


def python(*arguments: str, cwd: Path, path: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What a fresh interpreter in `cwd` with `path` alone on PYTHONPATH prints; the test fails where it does not exit with 0."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (environment or {})
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def origins(cwd: Path, path: Path | None) -> dict[str, Path]:
    """Where a fresh interpreter finds trustsnn and each of its floors."""
    names = ["trustsnn", *(f"trustsnn.{floor}" for floor in FLOORS)]
    code = f"import importlib, json; print(json.dumps({{n: importlib.import_module(n).__file__ for n in {names}}}))"
    return {name: Path(file).resolve() for name, file in json.loads(python("-c", code, cwd=cwd, path=path)).items()}


def modules(folder: Path, name: str) -> set[str]:
    """The Python files below `folder`, as paths inside a wheel whose package for `folder` is `name`."""
    return {f"{name}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}


def built_wheel(place: Path, **environment: str) -> Path:
    """The wheel of the checkout, built from a copy so that no build/ is left in it."""
    source = place / "source"
    source.mkdir()
    for name in BUILT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, source / name)
    arguments = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(source))
    python(*arguments, cwd=place, environment=environment)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with nothing in it but the installed wheel."""
    target = tmp_path_factory.mktemp("installed")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile"]
    python(*pip, "--target", str(target), str(wheel), cwd=target)
    return target


def test_the_wheel_holds_trustsnn_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"trustsnn", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}


def test_the_wheel_holds_every_module_and_the_data_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = modules(ROOT / "trustsnn", "trustsnn").union(*(modules(ROOT / floor, f"trustsnn/{floor}") for floor in FLOORS))
    templates = {f"trustsnn/reports/templates/{path.name}" for path in (ROOT / "reports" / "templates").iterdir()}
    assert len(templates) >= 2
    assert {name for name in names if name.endswith(".py")} == expected
    sources = {
        f"trustsnn/kernels/{path.name}" for path in (ROOT / "trustsnn" / "kernels").iterdir() if path.suffix in (".cpp", ".h")
    }
    assert templates | sources | {"trustsnn/py.typed"} <= names


def test_without_a_compiler_the_wheel_is_built_without_the_native_kernels(wheel, tmp_path):
    bare = built_wheel(tmp_path, CC="false", CXX="false")
    names, full = (set(zipfile.ZipFile(path).namelist()) for path in (bare, wheel))
    assert not [name for name in names if name.endswith(".so")]
    assert {name for name in names if name.endswith(".py")} == {name for name in full if name.endswith(".py")}


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_with_a_compiler_the_native_kernels_are_in_the_wheel(wheel):
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("trustsnn/kernels/_native")]


def test_the_wheel_has_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    points = configparser.ConfigParser()
    points.read_string(archive.read(name).decode())
    assert dict(points["console_scripts"]) == {"trustsnn": "trustsnn.cli.main:main"}


def test_the_installed_package_stands_alone(installed, tmp_path):
    assert all(file.is_relative_to(installed.resolve()) for file in origins(tmp_path, installed).values())
    assert "pgd" in python("-m", "trustsnn", "list", cwd=tmp_path, path=installed)


def test_a_checkout_needs_no_installation(tmp_path):
    for cwd, path in ((ROOT, None), (tmp_path, ROOT)):
        found = origins(cwd, path)
        assert found.pop("trustsnn") == ROOT / "trustsnn" / "__init__.py"
        assert found == {f"trustsnn.{floor}": ROOT / floor / "__init__.py" for floor in FLOORS}
        assert "pgd" in python("-m", "trustsnn", "list", cwd=cwd, path=path)


def test_the_floors_hold(installed, tmp_path):
    """import-linter on the installed wheel: it follows folders, and in a checkout the floors lie elsewhere."""
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports_command as lint; sys.argv[0] = 'lint-imports'; lint()"
    report = python("-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache", cwd=tmp_path, path=installed)
    assert re.search(r"(\d+) kept, 0 broken", report), report


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        *(["list", kind] for kind in ("attacks", "models", "datasets", "profiles", "triggers")),
        *([command, "--help"] for command in ("train", "convert", "audit", "report", "compare", "list", "inspect")),
        ["train", "bptt", "--help"],
        ["train", "qcfs", "--help"],
        ["leakage", "report", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_lists_do_without_torch(arguments, tmp_path):
    assert python("-c", NO_TORCH, *arguments, cwd=tmp_path, path=ROOT).strip()


def test_torch_is_out_of_reach_in_the_test_above(tmp_path):
    with pytest.raises(AssertionError, match="torch"):
        python("-c", NO_TORCH, "inspect", str(tmp_path), cwd=tmp_path, path=ROOT)


def test_import_is_light(tmp_path):
    code = "import sys, trustsnn; print(sorted({'torch', 'numpy', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert python("-c", code, cwd=tmp_path, path=ROOT).strip() == "[]"


def test_the_lock_pins_every_required_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    assert pinned["torch"] == "2.13.0"
    for requirement in map(Requirement, project["dependencies"]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"
