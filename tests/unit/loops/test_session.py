"""Logging, evaluating and saving happen at the right updates, and the best weights are kept."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest

from alignment.errors import ArgumentError, CheckpointError, NotFiniteError, NumericalError
from alignment.loops.cadence import Cadence, Cadences
from alignment.loops.early_stopping import EarlyStopping
from alignment.loops.session import BestModel, Counters, Hooks, Session
from alignment.metrics import Metric
from alignment.parallel.comms.stop_signals import Interrupted
from alignment.runs.resume import open_checkpoint, remove_replaced
from alignment.telemetry.progress import Progress
from alignment.telemetry.timing import StageTimer
from alignment.training.checkpoint import CheckpointStore
from tests.forked_ranks import run_forked

NEVER = Cadence(strategy="no")


class _Writers:
    def __init__(self):
        self.records = []

    def write(self, step, metrics):
        self.records.append((step, dict(metrics)))

    def write_samples(self, step, rows):
        pass


def _session(cadences, *, total=10, evaluate=None, save=lambda step: Path(), best=None):
    return Session(
        total_updates=total,
        cadences=cadences,
        hooks=Hooks(evaluate=evaluate, save=save, best=best),
        writers=_Writers(),
        timer=StageTimer(),
        progress=Progress(total, "test", enabled=False),
    )


def test_steps_fire_when_a_multiple_is_crossed_even_by_several_updates_at_once():
    saved = []
    cadences = Cadences(log=NEVER, evaluate=NEVER, save=Cadence(strategy="steps", every=4))
    session = _session(cadences, total=100, save=saved.append)
    for _ in range(5):
        session.advance({}, updates=3, epoch_ended=False)
    assert saved == [6, 9, 12]


def test_epoch_fires_at_the_end_of_epochs_and_of_the_run():
    saved = []
    cadences = Cadences(log=NEVER, evaluate=NEVER, save=Cadence(strategy="epoch"))
    session = _session(cadences, total=3, save=saved.append)
    for epoch_ended in (False, True, False):
        session.advance({}, updates=1, epoch_ended=epoch_ended)
    assert saved == [2, 3]


def test_samples_are_kept_with_the_metrics_of_their_iteration():
    cadences = Cadences(log=Cadence(strategy="steps", every=2), evaluate=NEVER, save=NEVER)
    session, kept = _session(cadences, total=5), []
    session.writers.write_samples = lambda step, rows: kept.append((step, *rows))
    for number in range(5):
        session.advance({}, updates=1, epoch_ended=False, samples=lambda number=number: [{"response": number}])
    assert kept == [(2, {"response": 1}), (4, {"response": 3}), (5, {"response": 4})]


def test_metrics_between_two_records_are_averaged_and_extremes_kept():
    cadences = Cadences(log=Cadence(strategy="steps", every=2), evaluate=NEVER, save=NEVER)
    session = _session(cadences, total=4)
    for value in (1.0, 3.0):
        session.advance({"loss": Metric(value), "ratio": Metric(value, "max")}, updates=1, epoch_ended=False)
    step, record = session.writers.records[0]
    assert step == 2
    assert record["loss"] == 2.0
    assert record["ratio"] == 3.0


def test_a_resumed_run_records_what_the_unbroken_one_would():
    """A checkpoint between two records carries the iterations that are still to be averaged."""
    cadences = Cadences(log=Cadence(strategy="steps", every=3), evaluate=NEVER, save=NEVER)
    values = [1.0, 5.0, 0.1]
    whole = _session(cadences, total=9)
    for value in values:
        whole.advance({"loss": Metric(value), "ratio": Metric(value, "max")}, updates=1, epoch_ended=False)
    first, second = _session(cadences, total=9), _session(cadences, total=9)
    for value in values[:2]:
        first.advance({"loss": Metric(value), "ratio": Metric(value, "max")}, updates=1, epoch_ended=False)
    second.counters.load_state(json.loads(json.dumps(first.counters.state())))
    second.advance({"loss": Metric(values[2]), "ratio": Metric(values[2], "max")}, updates=1, epoch_ended=False)
    assert second.writers.records == whole.writers.records
    assert second.counters == whole.counters


@pytest.mark.parametrize(("greater", "kept_at"), [(True, [1, 3]), (False, [1, 2])])
def test_best_weights_are_kept_when_the_evaluation_improves(greater, kept_at):
    values, kept = iter([0.5, 0.4, 0.9]), []
    best = BestModel(
        metric="eval/reward", greater_is_better=greater, keep=lambda: kept.append(session.counters.updates)
    )
    cadences = Cadences(log=NEVER, evaluate=Cadence(strategy="steps"), save=NEVER)
    session = _session(cadences, total=5, evaluate=lambda: ({"eval/reward": next(values)}, []), best=best)
    for _ in range(3):
        session.advance({}, updates=1, epoch_ended=False)
    assert kept == kept_at
    assert session.counters.best_step == kept_at[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_evaluation_that_is_not_finite_is_recorded_and_ends_the_run(value):
    cadences = Cadences(log=NEVER, evaluate=Cadence(strategy="steps"), save=NEVER)
    session = _session(cadences, evaluate=lambda: ({"eval/loss": value, "eval/other": 1.0}, []))
    said = f"^policy: eval/loss is {value} in the evaluation after update 1. The model has"
    with pytest.raises(NumericalError, match=said):
        session.advance({}, updates=1, epoch_ended=False)
    assert [step for step, _ in session.writers.records] == [1]


@pytest.mark.parametrize(
    ("error", "updates", "says"),
    [
        (NotFiniteError("logits are NaN"), 3, "policy: logits are NaN in the evaluation after update 3. The model has"),
        (NotFiniteError("values are NaN", "critic"), 3, "critic: values are NaN in the evaluation after update 3. The"),
        (NotFiniteError("logits are NaN"), 0, "after update 0. There was no update before, so it is not the learning"),
        (
            NotFiniteError("log-probs are NaN", "reference", is_trained=False),
            3,
            "reference: log-probs are NaN in the evaluation after update 3. This model is not trained: its weights are",
        ),
    ],
)
def test_whoever_finds_numbers_that_are_not_finite_the_message_names_model_and_update(error, updates, says):
    def evaluate():
        raise error

    session = _session(Cadences(log=NEVER, evaluate=NEVER, save=NEVER), evaluate=evaluate)
    session.counters.updates = updates
    with pytest.raises(NumericalError) as caught:
        session.evaluate()
    assert says in str(caught.value) and not isinstance(caught.value, NotFiniteError)


@pytest.mark.parametrize("due", [NEVER, Cadence(strategy="steps", every=2)])
def test_after_a_signal_the_update_is_finished_and_saved_once(due):
    saved = []

    def save(step):
        saved.append(step)
        return Path(f"checkpoint-{step}")

    session = _session(Cadences(log=NEVER, evaluate=NEVER, save=due), save=save)
    session.advance({}, updates=1, epoch_ended=False)
    session.signals.number = signal.SIGTERM
    said = "SIGTERM: stopped after update 2 of 10; checkpoint-2 is written. Continue with --resume_from_checkpoint true"
    with pytest.raises(Interrupted, match=f"^{said}$") as caught:
        session.advance({}, updates=1, epoch_ended=False)
    assert (saved, caught.value.agreed, caught.value.status) == ([2], True, 143)


def test_a_run_that_is_stopped_records_what_the_unbroken_one_would():
    """The record of three updates is torn by the stop after the second; the checkpoint carries what is missing."""
    cadences = Cadences(log=Cadence(strategy="steps", every=3), evaluate=NEVER, save=NEVER)
    values, states = [1.0, 5.0, 0.1], []
    whole, second = _session(cadences, total=9), _session(cadences, total=9)
    first = _session(cadences, total=9, save=lambda step: states.append(json.dumps(first.counters.state())) or Path())
    for value in values:
        whole.advance({"loss": Metric(value)}, updates=1, epoch_ended=False)
    first.advance({"loss": Metric(values[0])}, updates=1, epoch_ended=False)
    first.signals.number = signal.SIGINT
    with pytest.raises(Interrupted):
        first.advance({"loss": Metric(values[1])}, updates=1, epoch_ended=False)
    second.counters.load_state(json.loads(states[0]))
    second.advance({"loss": Metric(values[2])}, updates=1, epoch_ended=False)
    assert first.writers.records == []
    assert second.writers.records == whole.writers.records


def _run_until_stopped(topology):
    """One of three processes receives the signal; return after how many updates this one ends."""
    world = topology.world
    world.max_ = lambda tensor, what="": paddle.to_tensor([max(world.gather_objects(tensor.item()))])
    session = _session(Cadences(log=NEVER, evaluate=NEVER, save=NEVER))
    session.world = world
    with pytest.raises(Interrupted) as caught:
        for update in range(5):
            if topology.rank == 1 and update == 3:
                session.signals.number = signal.SIGTERM
            session.advance({}, updates=1, epoch_ended=False)
    return session.counters.updates, caught.value.number


def test_all_processes_stop_at_the_same_update():
    assert run_forked(_run_until_stopped, 3) == [(4, signal.SIGTERM)] * 3


def test_an_unknown_metric_cannot_choose_the_best_weights():
    best = BestModel(metric="eval/truth", greater_is_better=True, keep=lambda: None)
    session = _session(
        Cadences(log=NEVER, evaluate=NEVER, save=NEVER), evaluate=lambda: ({"eval/loss": 1.0}, []), best=best
    )
    with pytest.raises(ArgumentError, match="'eval/truth' is not a metric .*allowed: eval/loss"):
        session.evaluate()


def _checkpoint(store, step):
    return store.save(step, models={}, tensors={}, state={})


def test_an_earlier_run_is_refused_resumed_or_replaced(tmp_path):
    store = CheckpointStore(tmp_path)
    _checkpoint(store, 3)
    with pytest.raises(CheckpointError, match="overwrite_output_dir"):
        open_checkpoint(store, resume_from=None, overwrite=False)
    assert open_checkpoint(store, resume_from=True, overwrite=False).state["step"] == 3
    assert open_checkpoint(store, resume_from=tmp_path, overwrite=False).state["step"] == 3
    assert open_checkpoint(store, resume_from=None, overwrite=True) is None
    (tmp_path / "plots").mkdir()
    for name in ("readiness.json", "plots/calibration.png", "plots/held_out.npz"):
        (tmp_path / name).write_text("of the earlier run")
    assert len(store.all()) == 1, "nothing goes before the new run can begin"
    remove_replaced(store, None)
    assert store.all() == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "a report would show what it did not measure"


def test_resume_true_in_an_empty_folder_starts_afresh(tmp_path):
    assert open_checkpoint(CheckpointStore(tmp_path / "new"), resume_from=True, overwrite=False) is None


def test_a_named_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="complete.json"):
        open_checkpoint(CheckpointStore(tmp_path), resume_from=tmp_path, overwrite=False)


def test_resuming_from_an_older_checkpoint_refuses_the_later_ones_unless_they_may_go(tmp_path):
    store = CheckpointStore(tmp_path, limit=2)
    for step in (1, 2, 3):
        _checkpoint(store, step)
    older = tmp_path / "checkpoint-2"
    with pytest.raises(CheckpointError, match=r"checkpoint-3\)"):
        open_checkpoint(store, resume_from=older, overwrite=False)
    checkpoint = open_checkpoint(store, resume_from=older, overwrite=True)
    remove_replaced(store, checkpoint)
    assert store.all() == [older]


def test_resuming_into_another_run_s_folder_is_refused(tmp_path):
    named = _checkpoint(CheckpointStore(tmp_path / "a"), 5)
    other = CheckpointStore(tmp_path / "b")
    _checkpoint(other, 3)
    with pytest.raises(CheckpointError, match="checkpoint-3"):
        open_checkpoint(other, resume_from=named, overwrite=False)


def test_counters_start_empty():
    assert Counters().state() == {
        "updates": 0,
        "evaluated_at": None,
        "best_value": None,
        "best_step": None,
        "peak_value": None,
        "stalled": 0,
        "is_stopped": False,
        "window": [],
        "falling_answers": {"window": [], "first": None, "in_a_row": 0, "told": False},
    }


def test_each_record_averages_its_own_window():
    session = _session(Cadences(log=Cadence(strategy="steps", every=1), evaluate=NEVER, save=NEVER), total=9)
    for value in (1.0, 3.0):
        session.advance({"loss": Metric(value)}, updates=1, epoch_ended=False)
    assert [record["loss"] for _, record in session.writers.records] == [1.0, 3.0]


@pytest.mark.parametrize(("log_first", "steps"), [(False, [3, 4]), (True, [1, 3, 4])])
def test_the_last_update_is_recorded_and_the_first_where_asked(log_first, steps):
    session = _session(Cadences(log=Cadence(strategy="steps", every=3), evaluate=NEVER, save=NEVER), total=4)
    session.log_first = log_first
    for value in range(4):
        session.advance({"loss": Metric(float(value))}, updates=1, epoch_ended=False)
    assert [step for step, _ in session.writers.records] == steps
    assert session.writers.records[-1][1]["loss"] == 3.0


def test_the_progress_shows_the_last_part_of_the_names_it_was_asked_for():
    shown = []
    session = _session(Cadences(log=Cadence(strategy="steps", every=2), evaluate=NEVER, save=NEVER), total=4)
    session.shown = ("train/reward", "train/missing", "bare")
    session.progress = SimpleNamespace(advance=lambda steps, **numbers: shown.append((steps, numbers)))
    for value in (1.0, 3.0):
        metrics = {"train/reward": Metric(value), "bare": Metric(5.0), "other": Metric(9.0)}
        session.advance(metrics, updates=1, epoch_ended=False)
    assert shown == [(1, {}), (1, {"reward": 2.0, "bare": 5.0})]


@pytest.mark.parametrize(
    ("values", "options", "ended"),
    [
        ([1, 2, 3, 4], {}, 4),
        ([3, 2, 3, 3.5], {}, 3),
        ([3, 2, 3.1, 3, 3.1], {}, 5),
        ([3, 3.2, 3.1, 9], {"threshold": 0.25}, 3),
        ([3, 2, 1, 1, 1, 9], {"greater_is_better": False}, 5),
    ],
)
def test_a_run_stops_after_evaluations_without_improvement(values, options, ended):
    stop = EarlyStopping(**{"metric": "eval/x", "greater_is_better": True, "patience": 2, "threshold": 0.0, **options})
    saved, left = [], iter(values)
    cadences = Cadences(log=NEVER, evaluate=Cadence(strategy="steps", every=1), save=Cadence(strategy="steps", every=1))
    session = _session(cadences, total=99, evaluate=lambda: ({"eval/x": next(left)}, []))
    hooks = Hooks(evaluate=session.hooks.evaluate, save=lambda step: saved.append(session.counters.state()), stop=stop)
    session.hooks = hooks
    for _ in values:
        session.advance({}, updates=1, epoch_ended=False)
        if session.is_finished:
            break
    assert session.counters.updates == ended
    assert session.is_finished == (ended < len(values) or session.counters.stalled == 2)
    # The checkpoint of the last update knows that the run is over; a run without the key goes on from it.
    again = _session(cadences, total=99)
    again.counters.load_state(saved[-1])
    assert not again.is_finished
    again.hooks = hooks
    assert again.is_finished == session.is_finished


def test_a_metric_that_an_evaluation_lacks_is_refused_by_early_stopping_too():
    stop = EarlyStopping(metric="eval/joy", greater_is_better=True, patience=1, threshold=0.0)
    session = _session(Cadences(log=NEVER, evaluate=NEVER, save=NEVER))
    session.hooks = Hooks(evaluate=lambda: ({"eval/x": 1.0}, []), save=lambda step: Path(), stop=stop)
    with pytest.raises(ArgumentError, match=r"metric_for_best_model='eval/joy' is not .* \(allowed: eval/x\)"):
        session.evaluate()
