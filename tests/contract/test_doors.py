"""The scripts that start a trainer: ``alignment/TRAINER/run_*.py``, each executed in this process as Python does it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from alignment.errors import ArgumentError
from alignment.runs.entry import GO_ON

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [p for p in sorted((ROOT / "alignment").glob("*/run_*.py")) if "__main__" in p.read_text(encoding="utf-8")]
OWN_KEYS = {
    **dict.fromkeys(("run_dpo.py", "run_kto.py", "run_reward.py"), {"loss_type"}),
    **dict.fromkeys(("run_ppo.py", "run_rl.py"), {"rl_algorithm"}),
}
"""Of some keys that not every trainer has, those that the trainer behind the door does."""
IDS = [script.name for script in SCRIPTS]


@pytest.fixture
def entered(monkeypatch):
    """What a script hands to ``run_entry``, which would end this process: its trainer, how to read its arguments, how
    to continue.
    """
    handed = []

    def enter(train, *, read, go_on):
        handed.append((train, read, go_on))

    monkeypatch.setattr("alignment.runs.entry.run_entry", enter)
    return handed


def _execute(script, monkeypatch, *, name):
    """Run ``script`` with its own folder first on the path, as ``python script`` has it; return the path afterwards."""
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    runpy.run_path(str(script), run_name=name)
    return sys.path


def test_the_scripts_are_found():
    assert {"run_sft.py", "run_reward.py", "run_ppo.py"} <= set(IDS)


@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_a_script_starts_its_own_trainer_once(script, entered, monkeypatch):
    _execute(script, monkeypatch, name="__main__")
    ((train, read, go_on),) = entered
    assert go_on == GO_ON and train.__globals__["TRAINER"].parse == read
    keys = {key for own in OWN_KEYS.values() for key in own}
    with pytest.raises(ArgumentError, match="missing required argument 'train_datasets'") as error:
        read([word for key in sorted(keys) for word in (f"--{key}", "x")])
    unknown = {key for key in keys if f"unknown argument {key!r}" in str(error.value)}
    assert keys - unknown == OWN_KEYS.get(script.name, set())


@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_a_script_that_is_imported_starts_nothing(script, entered, monkeypatch):
    _execute(script, monkeypatch, name="a_module")
    assert not entered


@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_the_root_of_the_repository_takes_the_place_of_the_scripts_folder_on_the_path(script, entered, monkeypatch):
    before = list(sys.path)
    assert _execute(script, monkeypatch, name="a_module") == [str(ROOT), *before]
