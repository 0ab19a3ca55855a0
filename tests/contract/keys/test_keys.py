"""Every key of the argument files is followed from the JSON to the number that is used.

A new key needs one row in a ``*_rows.py`` here; see ``rows.Row``.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from alignment.arguments.effects import refuse_unbuilt, report_effects
from alignment.arguments.groups import declare
from alignment.errors import ArgumentError, UserError
from alignment.trainers.registered import TRAINERS
from tests.contract.keys import data_rows, ppo_rows, reward_rows, training_rows
from tests.contract.keys.assembled import BASE, Run, assemble, filled, make_models
from tests.contract.keys.rows import ALL, Row, group_rows, of_trainer

GROUPS = {name: TRAINERS[name].groups for name in TRAINERS}
PARSE = {name: TRAINERS[name].parse for name in TRAINERS}
ROWS: tuple[Row, ...] = (*training_rows.ROWS, *data_rows.ROWS, *reward_rows.ROWS, *ppo_rows.ROWS)
CASES = [(trainer, settings, row) for trainer in ALL for settings, rows in group_rows(ROWS, trainer) for row in rows]
SAFETY = {"input": "pack rope", "answer": "rope done", "other_answer": "knife done", "safer": True, "is_safe": True}
MARGINS = {"input": "pack rope", "answer": "rope done", "other_answer": "knife", "better": True, "margin": 1, "gap": 2}
MISSING = """{trainer} has the key {key!r}, and no row of tests/contract/keys follows it to where it is used. Add, in
training_rows.py, data_rows.py, reward_rows.py or ppo_rows.py:
    Row({key!r}, VALUE_THAT_IS_NO_DEFAULT, lambda r: WHERE_THE_ASSEMBLED_RUN_USES_IT)
or, where it does nothing for this trainer, declare it beside the field (inert_when, see alignment/fields.py)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, and the files that rows name."""
    place = tmp_path_factory.mktemp("keys")
    make_models(place)
    (place / "module.py").write_text("")
    (place / "own.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    chat_template = json.loads((place / "policy" / "tokenizer_config.json").read_text())["chat_template"]
    (place / "own.jinja").write_text("{# mine #}" + chat_template)
    (place / "function.py").write_text("def score(*texts):\n    return 7.0, *texts\n\n\ntruth = score\n")
    (place / "safety.jsonl").write_text(json.dumps({**SAFETY, "is_other_safe": False}) + "\n")
    rated = [{"prompt": "pack rope", "response": "rope done", "values": [n, -n]} for n in (1, 2)]
    (place / "attributes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    (place / "margins.jsonl").write_text(json.dumps(MARGINS) + "\n")
    return place


@pytest.fixture(scope="module")
def assembled(folder):
    """Return the run of a trainer with some keys, assembled once."""

    @functools.cache
    def run(trainer: str, keys: str) -> Run:
        return assemble(trainer, json.loads(keys), folder)

    return lambda trainer, keys: run(trainer, json.dumps(keys))


def _filled(value: Any, folder) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(item, folder) for item in value)
    return filled(value, folder)


@pytest.mark.parametrize(("trainer", "settings", "row"), CASES, ids=[f"{t}-{row.key}" for t, _, row in CASES])
def test_a_key_arrives_where_it_is_used(trainer, settings, row, assembled, folder):
    assert row.observe(assembled(trainer, settings)) == _filled(row.wanted(trainer), folder)


@pytest.mark.parametrize(("trainer", "settings", "row"), CASES, ids=[f"{t}-{row.key}" for t, _, row in CASES])
def test_without_the_key_something_else_stands_there(trainer, settings, row, assembled, folder):
    """So a row whose value is the default, or whose observation is blind, does not pass."""
    others = {key: of_trainer(value, trainer) for key, value in row.with_.items() if key != row.key}
    try:
        seen = row.observe(assembled(trainer, others))
    except (AttributeError, KeyError, IndexError, UserError):
        return  # without the key there is no such object, or no run
    assert seen != _filled(row.wanted(trainer), folder)


@pytest.mark.parametrize("trainer", ALL)
def test_every_key_has_a_row_or_says_that_it_does_nothing(trainer, folder):
    known = {row.key for row in ROWS if trainer in row.only}
    for slot in declare(GROUPS[trainer]):
        if slot.name not in known and _may_act(slot):
            assert _is_told(trainer, slot.name, folder), MISSING.format(trainer=trainer, key=slot.name)


def test_no_row_is_left_of_a_key_that_is_gone_or_does_nothing():
    keys = {trainer: {slot.name for slot in declare(GROUPS[trainer]) if _may_act(slot)} for trainer in ALL}
    assert [(row.key, t) for row in ROWS for t in row.only if row.key not in keys[t]] == []


def _may_act(slot) -> bool:
    """Return whether a key can change anything, by its declaration."""
    return not slot.constraint.no_effect and not slot.constraint.refusal


def _is_told(trainer: str, key: str, folder) -> bool:
    """Return whether eight GPUs refuse the key, or a line says that it does nothing there."""
    value = {"eval_mode": "single", "distributed_dry_run": "true"}.get(key, "2")
    argv = [part for name, text in BASE[trainer].items() for part in (f"--{name}", str(filled(text, folder)))]
    try:
        parsed = PARSE[trainer]([*argv, "--output_dir", "out", f"--{key}", value])
        refuse_unbuilt(parsed, device="gpu", world_size=8)
    except ArgumentError as error:
        return f"{key}={value} is refused" in str(error)
    return key in {effect.key for effect in report_effects(parsed, device="gpu", world_size=8)}
