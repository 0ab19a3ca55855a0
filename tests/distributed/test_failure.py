"""When one rank dies, fails, sleeps or holds other data, the others end in time and say who, where and in what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).parent / "ranks_failure.py"
LIMIT_SECONDS = 3.0
"""Of one operation, as the script sets it."""
STATED_SECONDS = 15.0
"""In which others end after a death, or after the limit; about 0.2 and 0.5 on an idle machine."""
PLACES = [f"rank {rank} (stage {rank % 2}, tensor 0, batch {rank // 2})" for rank in range(4)]
TIMED_OUT, USER_ERROR, FAULT, KILLED = 75, 2, 1, -9


def run(scenario: str, victim: int, folder: Path) -> tuple[dict[int, list], list[str]]:
    """Return ({rank: [status, seconds since the event]}, what each rank printed)."""
    command = [sys.executable, str(SCRIPT), scenario, str(victim), str(folder)]
    subprocess.run(command, check=True, timeout=150, env={**os.environ, "GLOG_minloglevel": "2"})
    ends = {int(rank): end for rank, end in json.loads((folder / "ends.json").read_text()).items()}
    return ends, [(folder / f"output-{rank}.txt").read_text(errors="replace") for rank in range(4)]


@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_rank_ends_the_others_at_once(tmp_path, victim):
    ends, outputs = run("killed", victim, tmp_path)
    assert ends.pop(victim)[0] == KILLED
    for rank, (status, seconds) in ends.items():
        assert (status, seconds < STATED_SECONDS) == (USER_ERROR, True), outputs[rank]
        assert f"error: {PLACES[rank]}: " in outputs[rank] and f"rank {victim}" in outputs[rank]
    neighbour = victim ^ 1
    kind = "gradient" if victim == 0 else "hidden state"
    assert f"send to rank {victim} (pipeline ({kind} of micro-batch" in outputs[neighbour]


def test_a_fault_in_one_rank_is_told_by_those_who_wait_for_it(tmp_path):
    ends, outputs = run("faulty", 3, tmp_path)
    cause = "AssertionError: score.weight came where another was announced"
    assert ends.pop(3)[0] == FAULT and "Traceback" in outputs[3] and cause in outputs[3]
    for rank, (status, seconds) in ends.items():
        assert (status, seconds < STATED_SECONDS) == (USER_ERROR, True), outputs[rank]
    # The neighbour in the pipeline waits for rank 3 itself; the others may see the neighbour go first.
    assert f"\n  rank 3 ended with {cause}" in outputs[2]


def test_a_sleeping_rank_ends_the_others_at_the_limit(tmp_path):
    ends, outputs = run("asleep", 3, tmp_path)
    del ends[3]
    assert TIMED_OUT in {status for status, _ in ends.values()}
    for rank, (status, seconds) in ends.items():
        assert LIMIT_SECONDS - 0.1 < seconds < LIMIT_SECONDS + STATED_SECONDS
        if status == TIMED_OUT:
            assert f"{PLACES[rank]}: " in outputs[rank] and "the limit is 3 s" in outputs[rank]
            assert f"{PLACES[3]}: busy on its own after all_gather" in outputs[rank]
        else:
            # Another was first, and its end broke this one's connection.
            assert status == USER_ERROR and f"error: {PLACES[rank]}: " in outputs[rank]


def test_other_data_on_one_rank_ends_all_with_one_message(tmp_path):
    ends, outputs = run("other data", 3, tmp_path)
    for rank, output in enumerate(outputs):
        assert (ends[rank][0], ends[rank][1] < STATED_SECONDS) == (USER_ERROR, True), output
        assert f"error: {PLACES[rank]}: all processes must run the same micro-batches" in output
        assert f"{PLACES[0]} forward and backward of 6 micro-batches [3, 10] (27 tokens)" in output
        assert f"{PLACES[3]} forward and backward of 5 micro-batches [3, 10] (27 tokens)" in output
