"""What people get wrong: every case ends with status 2, one message without a traceback, and nothing half-written."""

from __future__ import annotations

import pytest
import refusals
from bad_arguments import ARGUMENT_CASES
from bad_models import MODEL_CASES
from bad_rewards import REWARD_CASES
from bad_rows import ROW_CASES
from bad_tools import TOOL_CASES
from bench import Bench, answer

from alignment.trainers.registered import TRAINERS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(20)]

CASES = (*ARGUMENT_CASES, *ROW_CASES, *MODEL_CASES, *REWARD_CASES, *TOOL_CASES)
FEWEST = 250
LONGEST_MESSAGE = 4000


@pytest.fixture(scope="session")
def working(sft_folder, rm_folder, sft_arguments, rm_arguments, ppo_arguments):
    """Folders and arguments that work; made before the first case, which has a time limit."""
    return {
        "policy": sft_folder / "policy",
        "reward": rm_folder / "reward",
        "run": sft_folder,
        "arguments": {"sft": sft_arguments, "rm": rm_arguments, "ppo": ppo_arguments},
    }


@pytest.mark.timeout(300)
def test_there_are_enough_cases_and_no_name_stands_twice(working):
    names = [f"{case.tool}-{case.name}" for case in CASES]
    assert len(names) >= FEWEST
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.tool}-{case.name}")
def test_bad_input(case, working, tmp_path):
    bench = Bench(here=tmp_path, **working)
    done = answer(case, bench)
    message = refusals.message_of(done, *(says.replace("{here}", str(tmp_path)) for says in case.says))
    assert len(message) < LONGEST_MESSAGE
    if case.tool in TRAINERS:
        assert refusals.left_behind(tmp_path / "out") == []
