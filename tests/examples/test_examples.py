"""What the documentation shows: examples run, Python blocks run, commands and settings exist, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import chain, product
from pathlib import Path

import pytest
import yaml

import trustsnn
from trustsnn.reports import gates

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
SHELLS = ("sh", "bash", "console", "yaml")

# Reads command lines as JSON lists on standard input and holds each against the real options, without running it. A whole line
# must parse; a mention in the text, such as `trustsnn audit`, may leave out what is required.
CHECK_COMMANDS = """
import json, sys
import click, typer
from trustsnn.cli.main import app

def check(words, whole):
    command, path = typer.main.get_command(app), "trustsnn"
    while isinstance(command, click.Group) and words and (hasattr(command, "default") or not words[0].startswith("-")):
        if words[0].startswith("-"):
            words = [command.default, *words]
        if words[0] not in command.commands:
            return f"{path} has no command {words[0]!r}"
        path, command, words = f"{path} {words[0]}", command.commands[words[0]], words[1:]
    known = {name for option in command.params for name in [*option.opts, *option.secondary_opts]} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    if unknown:
        return f"{path} has no option {unknown[0]!r}"
    if whole and not isinstance(command, click.Group):
        try:
            command.make_context(path, list(words))
        except click.exceptions.Exit:
            pass
        except click.ClickException as error:
            return f"{path}: {error.format_message()}"

for words, whole in json.load(sys.stdin):
    problem = check(words, whole)
    if problem:
        print("trustsnn", *words, "->", problem)
"""


def python(*arguments: str, cwd: Path, text: str | None = None) -> str:
    """What a fresh interpreter with the package under test prints; the test fails where it does not exit with 0."""
    package = Path(trustsnn.__file__).parent.parent
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    # Waiting threads must not spin: on cores that others use too, that costs ten times the time.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, input=text, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[tuple[list[str], bool]]:
    """The arguments of each `trustsnn ...` in the document, and whether it is a whole line of a shell block."""
    lines = [line for language, text in blocks(path) if language in SHELLS for line in text.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^    (.*)$", prose(path), re.MULTILINE)
    lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in lines]
    found = [(match[1], True) for line in lines if (match := re.search(r"(?:^|[\s/])trustsnn (.+)", line))]
    found += [(text, False) for text in re.findall(r"`trustsnn ([^`]+)`", prose(path))]
    arguments = [(shlex.split(text), whole) for text, whole in found]
    return [(words, whole) for words, whole in arguments if words and "{" not in words[0]]


def headings(path: Path) -> set[str]:
    """The anchors that a host gives to the document's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_there_are_examples_and_documents():
    assert list((ROOT / "examples").glob("*.py"))
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/index.md", "docs/guide.md", "docs/design.md"} <= set(NAMES)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_example_runs_and_reports(name, tmp_path):
    assert "pass" in python(str(ROOT / "examples" / name), cwd=tmp_path)
    (report,) = tmp_path.glob("runs/*/report.html")
    assert report.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["README.md", "docs/guide.md"])
def test_python_blocks_run_as_they_stand(name, tmp_path):
    code = [text for language, text in blocks(ROOT / name) if language == "python"]
    assert code
    assert "pass" in python("-c", "\n".join(code), cwd=tmp_path)


def test_commands_are_ones_that_the_program_has(tmp_path):
    found = {path: commands(path) for path in DOCUMENTS}
    assert sum(whole for path in found for _, whole in found[path]) >= 10
    assert python("-c", CHECK_COMMANDS, cwd=tmp_path, text=json.dumps([*chain(*found.values())])) == ""


def test_a_wrong_command_would_be_seen(tmp_path):
    wrong = [
        (["adit", "MODEL"], False),
        (["audit", "--sample"], False),
        (["train", "nonesuch"], False),
        (["audit", "MODEL"], True),
        (["audit", "M", "--data", "d", "--out", "r", "--seed", "x"], True),
    ]
    assert len(python("-c", CHECK_COMMANDS, cwd=tmp_path, text=json.dumps(wrong)).splitlines()) == len(wrong)


def test_options_named_in_the_text_exist(tmp_path):
    code = (
        "import json, typer; from trustsnn.cli.main import app; main = typer.main.get_command(app).commands; "
        "commands = [c for one in main.values() for c in [one, *getattr(one, 'commands', {}).values()]]; "
        "print(json.dumps([name for c in commands for o in c.params for name in [*o.opts, *o.secondary_opts]]))"
    )
    known = {*json.loads(python("-c", code, cwd=tmp_path)), "--help"}
    named = {name for path in DOCUMENTS for name in re.findall(r"`(--[a-z0-9-]+)[^`]*`", prose(path))}
    assert len(named) > 20
    assert named <= known, f"no command has {named - known}"


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_somewhere(name):
    path = ROOT / name
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", prose(path))
    for target in filter(None, (a or b for a, b in targets)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{name} links to {target}, which does not exist"
        assert linked.is_relative_to(ROOT), f"{name} links to {target}, outside the repository"
        assert not anchor or anchor in headings(linked), f"{name} links to {target}, which has no such heading"


def test_the_guide_has_every_setting_of_an_audit():
    from trustsnn.runners.config import AuditConfig

    section = prose(ROOT / "docs" / "guide.md").partition("## Settings of an audit")[2].partition("\n## ")[0]
    keys = re.findall(r"^\| `(\w+)` \| `--", section, re.MULTILINE)
    assert keys == list(AuditConfig.model_fields)


def test_the_guide_has_every_setting_of_the_attacks():
    import dataclasses

    from trustsnn.attacks import FGSM, PGD

    section = prose(ROOT / "docs" / "guide.md").partition("## Settings of an audit")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ((?:fgsm, )?pgd) \|", section, re.MULTILINE))
    decided = {"eps", "norm", "estimator", "seed"}
    fields = {kind.name: {field.name for field in dataclasses.fields(kind)} - decided for kind in (FGSM, PGD)}
    assert set(told) == fields["pgd"]
    assert {name for name, of in told.items() if "fgsm" in of} == fields["fgsm"]


def test_the_configuration_files_of_the_guide_are_valid():
    from trustsnn.runners.config import make_config

    files = [yaml.safe_load(text) for language, text in blocks(ROOT / "docs" / "guide.md") if language == "yaml"]
    configurations = [content for content in files if "jobs" not in content]
    assert len(configurations) >= 2
    for content in configurations:
        config = make_config(content)
        gates.check_planned([gates.parse(text) for text in config.gates], [*product(*config.threats("image"))])
