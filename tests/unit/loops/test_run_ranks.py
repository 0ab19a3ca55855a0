"""Several processes share one output folder: one decides, all learn it, and refusals are everyone's."""

from __future__ import annotations

import shutil
from collections import namedtuple

import numpy as np
import pytest

from alignment.architecture.parts import Part, even_cut
from alignment.errors import CheckpointError
from alignment.loops.session import Counters
from alignment.runs.resume import open_checkpoint, remove_replaced
from alignment.runs.state import RunState, StatePart
from alignment.training.checkpoint import Checkpoint, CheckpointStore
from alignment.training.schedules import Schedule
from tests.forked_ranks import run_forked

NUM_RANKS = 3


class Learner:
    """Holds some rows of one parameter's moments."""

    schedule = Schedule(kind="constant", peak=1.0, floor=0.0, warmup_updates=0, decay_updates=1)

    def __init__(self, rank):
        self.part = Part.whole("a", (8, 2)).along(0, *even_cut(8, NUM_RANKS, rank))
        self.loaded = None

    def state_parts(self):
        return {"a": self.part}

    def state(self):
        whole = np.arange(16, dtype=np.float32).reshape(8, 2)
        return {"a/moment1_0": whole[self.part.slices], "num_updates": np.array([5], np.int64)}

    def load_state(self, state):
        self.loaded = state


def make_state(topology, folder, text):
    def write(target):
        if topology.is_main:
            target.mkdir(exist_ok=True)
            (target / "weights").write_text(text)

    return RunState(
        store=CheckpointStore(folder, topology=topology),
        models={"policy": write},
        learners={"policy": Learner(topology.rank)},
        counters=Counters(),
        parts={"data": StatePart(lambda: 7, lambda value: None)},
    )


def run_twice(topology, folder):
    first = make_state(topology, folder, "at 1")
    first.check_space()
    first.counters.updates = first.counters.best_step = 1
    first.counters.best_value = 0.5
    first.keep_best()
    path = first.save(1)
    second = make_state(topology, folder, "at 2")
    second.restore(Checkpoint(path))
    targets = second.export(best=True)
    exported = (targets["policy"] / "weights").read_text()
    same = all(np.array_equal(value, second.learners["policy"].state()[key]) for key, value in first_state(second))
    return exported, second.counters.best_step, same


def first_state(state):
    return state.learners["policy"].loaded.items()


def test_all_save_restore_and_export_together(tmp_path):
    assert run_forked(run_twice, NUM_RANKS, tmp_path) == [("at 1", 1, True)] * NUM_RANKS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "checkpoint-1", "policy"]
    files = sorted(p.name for p in (tmp_path / "checkpoint-1").glob("policy_optimizer*"))
    assert files == [*(f"policy_optimizer-0000{i}.safetensors" for i in range(3)), "policy_optimizer.parts.json"]


def refuse_space(topology, folder):
    full = namedtuple("Usage", "free")(3)
    if topology.is_main:
        shutil.disk_usage = lambda _: full
    make_state(topology, folder, "").check_space()


def test_too_little_space_stops_all(tmp_path):
    found = run_forked(refuse_space, NUM_RANKS, tmp_path)
    assert all(isinstance(error, CheckpointError) for error in found), found
    assert len({str(error) for error in found}) == 1
    assert "needs about 0.0 MiB" in str(found[0])


def choose(topology, folder, resume, overwrite):
    store = CheckpointStore(folder, topology=topology)
    checkpoint = open_checkpoint(store, resume_from=resume, overwrite=overwrite)
    remove_replaced(store, checkpoint)
    return None if checkpoint is None else checkpoint.state["step"]


@pytest.fixture
def output(tmp_path):
    for step in (2, 4):
        CheckpointStore(tmp_path).save(step, models={}, tensors={}, state={})
    return tmp_path


def test_the_main_process_chooses_the_checkpoint_for_all(output):
    assert run_forked(choose, NUM_RANKS, output, True, False) == [4] * NUM_RANKS
    (output / "checkpoint-4" / "state.json").unlink()
    assert run_forked(choose, NUM_RANKS, output, True, False) == [2] * NUM_RANKS
    assert run_forked(choose, NUM_RANKS, output, None, True) == [None] * NUM_RANKS
    assert list(output.iterdir()) == []


def test_a_refusal_is_everyone_s(output):
    found = run_forked(choose, NUM_RANKS, output, None, False)
    assert all(isinstance(error, CheckpointError) and "holds an earlier run" in str(error) for error in found), found
