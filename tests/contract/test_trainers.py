"""What every registered trainer promises to those that find it in the registry."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.commands.keys import key_reference
from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).resolve().parents[2]


def as_words(arguments):
    return [part for key, value in arguments.items() for part in (f"--{key}", str(value))]


@pytest.fixture(params=list(TRAINERS))
def trainer(request):
    return TRAINERS[request.param]


def test_its_shipped_files_are_understood(trainer, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = sorted(ROOT.glob(f"config/tiny/{trainer.name}_argument.json"))
    assert files, "a trainer ships an argument file for the small task"
    models = {key: value for key, value in trainer.small_run.items() if "model" in key}
    for path in files:
        given = json.loads(path.read_text(encoding="utf-8"))
        parsed = trainer.parse([str(path), *as_words({key: models[key] for key in models if key in given})])
        assert Path(parsed.training.output_dir) == ROOT / given["output_dir"]


def test_it_starts_by_its_name():
    for name in TRAINERS:
        command = [sys.executable, "-m", "alignment", "train", name, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        assert "train_datasets" in done.stdout, name


@pytest.mark.parametrize("trainer", [TRAINERS[name] for name in TRAINERS if TRAINERS[name].door], ids=lambda t: t.name)
def test_its_door_is_a_script_that_starts_it(trainer):
    path = ROOT / trainer.door
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(body[-1], ast.If) and ast.unparse(body[-1].test) == "__name__ == '__main__'"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 20
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "train_datasets" in done.stdout


def test_its_small_run_is_complete(trainer, tmp_path):
    arguments = {**trainer.small_run, "output_dir": "o"}
    given = as_words(arguments)
    parsed = trainer.parse(given)
    assert Path(parsed.training.output_dir).name == "o"
    with pytest.raises(ArgumentError, match="no_such_key"):
        trainer.parse([*given, "--no_such_key", "1"])


def test_its_keys_stand_in_the_reference(trainer):
    assert f"### {trainer.title}\n" in key_reference()


def test_it_writes_a_policy_or_a_score_model(trainer):
    assert trainer.models and set(trainer.models) <= {"policy", "reward", "value", "cost_value"}


def test_listing_trainers_needs_no_paddle():
    code = "import sys, alignment.trainers.registered as r; list(r.TRAINERS); sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
