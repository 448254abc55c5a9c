"""`trustsnn certify` as a user meets it."""

from __future__ import annotations

import json

import pytest

import trustsnn


@pytest.fixture(scope="module")
def folder(certified_model, tmp_path_factory):
    return str(trustsnn.save(certified_model, tmp_path_factory.mktemp("models") / "mlp"))


@pytest.fixture
def run(here):
    def run(*arguments):
        done = here("certify", *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def test_certify_writes_and_check_confirms(folder, tmp_path, run):
    out = tmp_path / "out"
    settings = ("--data", "digits", "--method", "ibp", "--largest", "0.05", "--rounds", 2, "--samples", 12, "--radii", "0,1/20")
    code, said, _ = run(folder, *settings, "--out", out)
    assert code == 0
    assert "correct: " in said
    assert "certified within" in said
    assert "95 % interval" in said
    assert sorted(path.name for path in out.iterdir()) == ["certificates.csv", "certificates.json", "certified.svg"]
    content = json.loads((out / "certificates.json").read_text())
    assert [point["radius"] for point in content["curve"]] == [0.0, 0.05]
    assert 0 < content["curve"][1]["successes"] <= content["curve"][0]["successes"]
    code, said, _ = run("--check", out / "certificates.json")
    assert code == 0
    assert "of 12 samples" in said
    code, said, _ = run(folder, "--data", "digits", "--check", out / "certificates.json", "--samples", 3)
    assert code == 0
    assert "3 samples were done again" in said
    path = out / "certificates.json"
    path.write_text(path.read_text().replace('"rounds": 2', '"rounds": 3'))
    code, _, error = run("--check", path)
    assert code == 4
    assert "altered" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["M", "--data", "digits", "--out", "O", "--method", "magic"], "Known: smoothing, rate, ibp, crown"),
        (["M", "--data", "digits", "--out", "O", "--method", "ibp", "--sigma", "1"], "no --sigma"),
        (["M", "--data", "digits", "--out", "O", "--largest", "far"], "--largest"),
        (["M", "--data", "digits", "--out", "O", "--method", "rate"], "Poisson-coded"),
        (["M", "--data", "digits"], "Expected MODEL, --data and --out"),
        (["--check", "missing.json"], "Could not read"),
        (["--check", "missing.json", "--sigma", "1"], "Leave out --sigma"),
        (["M", "--check", "missing.json"], "go together"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(arguments, message, folder, tmp_path, run):
    code, _, error = run(*[{"M": folder, "O": tmp_path / "out"}.get(word, word) for word in arguments])
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()
