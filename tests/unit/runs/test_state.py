"""The best weights that are exported are those the counters speak of."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.architecture.parts import Part
from alignment.errors import CheckpointError
from alignment.loops.session import Counters
from alignment.runs import state as run_state
from alignment.runs.state import RunState, StatePart
from alignment.training.checkpoint import Checkpoint, CheckpointStore
from alignment.training.schedules import Schedule


@pytest.fixture
def make_state(tmp_path):
    """Make a run whose model is the text ``weights`` of the given list's last entry."""

    def make(weights, folder="run"):
        def write(target):
            target.mkdir(exist_ok=True)
            (target / "weights").write_text(weights[-1])

        store = CheckpointStore(tmp_path / folder)
        return RunState(store=store, models={"policy": write}, learners={}, counters=Counters(), parts={})

    return make


def _keep(state, step, value):
    state.counters.updates = state.counters.best_step = step
    state.counters.best_value = value
    state.keep_best()


def _exported(state):
    return (state.export(best=True)["policy"] / "weights").read_text()


def test_the_best_weights_survive_a_resume(make_state):
    weights = ["at 1"]
    state = make_state(weights)
    _keep(state, 1, 0.9)
    weights.append("at 2")
    path = state.save(2)
    resumed = make_state(weights)
    resumed.restore(Checkpoint(path))
    assert (resumed.counters.best_step, resumed.counters.best_value) == (1, 0.9)
    assert _exported(resumed) == "at 1"


def test_a_checkpoint_with_a_model_that_this_run_does_not_train_is_refused(make_state):
    """A critic would be dropped without a word, and be missing when the run goes on as it began."""
    state = make_state(["at 2"])
    with_critic = dataclasses.replace(state, models={**state.models, "value": state.models["policy"]})
    path = with_critic.save(2)
    said = f"cannot resume from {path}: this run trains policy and would drop its value. Resume with the trainer"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        make_state(["at 2"]).restore(Checkpoint(path))
    with_critic.restore(Checkpoint(path))


def test_best_weights_of_later_than_the_checkpoint_are_not_taken_for_its_own(make_state):
    weights = ["at 1"]
    state = make_state(weights)
    _keep(state, 1, 0.5)
    path = state.save(2)
    weights.append("at 3")
    _keep(state, 3, 0.8)
    resumed = make_state(weights)
    resumed.restore(Checkpoint(path))
    assert resumed.counters.best_step is None
    assert resumed.counters.best_value is None


def test_best_weights_that_stayed_in_another_folder_are_forgotten(make_state, caplog):
    state = make_state(["at 1"])
    _keep(state, 1, 0.5)
    path = state.save(1)
    elsewhere = make_state(["now"], "elsewhere")
    elsewhere.restore(Checkpoint(path))
    assert "from update 1" in caplog.text
    assert _exported(elsewhere) == "now"


def test_a_best_folder_that_an_earlier_run_left_is_not_exported(make_state):
    _keep(make_state(["old"]), 7, 0.9)
    assert _exported(make_state(["new"])) == "new"


class _Learner:
    """A learner of three updates without an optimizer."""

    name, num_updates = "policy", 3

    def __init__(self, **schedule):
        shape = {"kind": "linear", "peak": 1.0, "floor": 0.0, "warmup_updates": 0, "decay_updates": 4}
        self.schedule = Schedule(**{**shape, **schedule})

    def state(self):
        return {"num_updates": np.array([3])}

    def state_parts(self):
        return {}

    def load_state(self, state):
        pass


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({}, None),
        (
            {"decay_updates": 8},
            "decay_updates was 4 and is 8): update 4 uses 0.625; by the old schedule it was 0.25",
        ),
        (
            {"peak": 2.0, "kind": "constant"},
            "kind was linear and is constant, peak was 1.0 and is 2.0): update 4 uses 2; by the old schedule it was "
            "0.25",
        ),
    ],
)
def test_another_schedule_than_the_checkpoints_is_said_with_the_rates(tmp_path, caplog, schedule, said):
    def state_of(learner):
        models = {"policy": lambda target: target.mkdir()}
        store = CheckpointStore(tmp_path)
        return RunState(store=store, models=models, learners={"policy": learner}, counters=Counters(), parts={})

    path = state_of(_Learner()).save(3)
    state_of(_Learner(**schedule)).restore(Checkpoint(path))
    if said is None:
        assert "schedule" not in caplog.text
    else:
        assert f"policy: the learning rate schedule has changed ({said}" in caplog.text


@pytest.mark.parametrize(("free", "fits"), [(12 * 17, True), (12 * 17 - 1, False)])
def test_a_run_needs_room_for_weights_and_two_moments_in_float32(tmp_path, monkeypatch, free, fits):
    """17 parameters, of two learners that both call one of theirs weight."""
    parts = {"policy": {"weight": Part.whole("weight", (3, 4))}, "value": {"weight": Part.whole("weight", (5,))}}
    learners = {name: SimpleNamespace(state_parts=lambda held=held: held) for name, held in parts.items()}
    state = RunState(store=CheckpointStore(tmp_path), models={}, learners=learners, counters=Counters(), parts={})
    monkeypatch.setattr(run_state.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    if fits:
        state.check_space()
    else:
        with pytest.raises(CheckpointError, match="one checkpoint needs about"):
            state.check_space()


def test_each_process_reads_its_own_part_of_the_optimizer(make_state, tmp_path):
    """And every name that any process has is known, so that one that nobody has is refused."""
    asked, parts = [], {"weight": Part.whole("weight", (6, 2)).along(0, 3, 6)}
    learner = SimpleNamespace(state_parts=lambda: parts, load_state=asked.append, schedule=_Learner().schedule)
    state = RunState(
        store=CheckpointStore(tmp_path), models={}, learners={"policy": learner}, counters=Counters(), parts={}
    )
    checkpoint = SimpleNamespace(tensors=lambda name, *, parts, known: (name, parts, known))
    state._restore_tensors("policy_optimizer", learner, checkpoint)
    assert asked == [("policy_optimizer", parts, {"weight"})]


def test_an_optional_part_may_be_missing_in_a_checkpoint_and_another_may_not(make_state):
    path = make_state(["at 2"]).save(2)
    seen = []
    part = StatePart(lambda: 1, seen.append, is_optional=True)
    state = dataclasses.replace(make_state(["now"]), parts={"new": part})
    state.restore(Checkpoint(path))
    assert seen == []
    state.restore(Checkpoint(state.save(3)))
    assert seen == [1]
    strict = dataclasses.replace(state, parts={"new": dataclasses.replace(part, is_optional=False)})
    with pytest.raises(CheckpointError, match="it has no state for new"):
        strict.restore(Checkpoint(path))
