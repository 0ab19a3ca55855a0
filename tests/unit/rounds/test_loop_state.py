"""A step is done once, and again when anything that it was made from, or what it made, has changed; it is said what."""

from __future__ import annotations

import os

import pytest

from alignment.errors import UserError
from alignment.rounds.digests import Digests
from alignment.rounds.loop_state import LoopState, MadeFrom

FROM = MadeFrom({"K": 4, "method": "max_min"}, {"answers.jsonl": "a1"})
MADE = {"chosen.jsonl": "c1"}


@pytest.fixture
def state(tmp_path):
    found = LoopState(tmp_path)
    found.set_plan(["round-1/select"])
    found.begin("round-1/select", FROM)
    found.finish("round-1/select", FROM, MADE)
    return LoopState(tmp_path)


def test_a_finished_step_is_not_done_again(state):
    assert state.why_again("round-1/select", FROM, MADE) is None
    assert state.why_again("round-2/select", FROM, MADE) == ""


@pytest.mark.parametrize(
    ("made_from", "made", "why"),
    [
        (FROM._replace(keys={"K": 8, "method": "max_min"}), MADE, "K was 4 and is 8"),
        (FROM._replace(keys={"K": 4}), MADE, "method was max_min and is not given"),
        (FROM._replace(inputs={"answers.jsonl": "a2"}), MADE, "answers.jsonl changed"),
        (FROM, {"chosen.jsonl": "c2"}, "its output chosen.jsonl was changed"),
        (FROM, {"chosen.jsonl": None}, "its output chosen.jsonl is gone"),
    ],
)
def test_what_changed_is_said(state, made_from, made, why):
    assert state.why_again("round-1/select", made_from, made) == why


def test_only_a_step_that_began_from_the_same_things_continues(state, tmp_path):
    assert not state.begin("round-1/select", FROM)
    again = LoopState(tmp_path)
    assert again.why_again("round-1/select", FROM, MADE) == "", "what was begun is not done"
    assert again.begin("round-1/select", FROM)
    assert not again.begin("round-1/select", FROM._replace(keys={"K": 8}))


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "state.json").write_text('{"plan": [')
    with pytest.raises(UserError, match=r"state\.json is damaged .* delete it to begin anew"):
        LoopState(tmp_path)


def test_a_checksum_follows_the_content_of_models_not_what_lies_beside(tmp_path):
    model = tmp_path / "run" / "policy"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"1234")
    first = Digests(tmp_path / "cache").of(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{}")
    (tmp_path / "run" / "checkpoint-5").mkdir()
    (tmp_path / "run" / "checkpoint-5" / "model.safetensors").write_bytes(b"9")
    digests = Digests(tmp_path / "cache")
    assert digests.of(tmp_path / "run") == first
    digests.save()
    (model / "model.safetensors").write_bytes(b"1235")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert Digests(tmp_path / "cache").of(tmp_path / "run") != first
    assert Digests(tmp_path / "cache").of(tmp_path / "nothing") is None
