"""What all training loops share: counting updates, logging, evaluating, saving, stopping."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paddle

from alignment.device.memory import MemoryWatch
from alignment.errors import NotFiniteError, diverged
from alignment.loops.cadence import Cadences
from alignment.loops.early_stopping import EarlyStopping, read_metric
from alignment.loops.falling_answers import FallingAnswers
from alignment.loops.flat_rewards import FlatRewards
from alignment.loops.hacking.alarm import HackingAlarm
from alignment.loops.liveness import Liveness
from alignment.metrics import Metric, average_metrics
from alignment.models.decoder.forest import PASSED
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.comms.stop_signals import Interrupted, StopSignals
from alignment.parallel.comms.traffic import Traffic
from alignment.telemetry import log
from alignment.telemetry.progress import Progress
from alignment.telemetry.timing import StageTimer
from alignment.telemetry.writers import SilentWriters, Writers


@dataclass(frozen=True, kw_only=True)
class BestModel:
    """The evaluation metric that decides which weights are best, and how to keep those."""

    metric: str
    greater_is_better: bool
    keep: Callable[[], None]
    allows: Callable[[], bool] = lambda: True
    """Tells whether the weights of the evaluation just made may be the best."""


@dataclass(kw_only=True)
class Counters:
    """The progress of a run and its unrecorded metrics; saved in every checkpoint."""

    updates: int = 0
    evaluated_at: int | None = None
    """The update count of the latest evaluation."""
    best_value: float | None = None
    best_step: int | None = None
    peak_value: float | None = None
    """The best value that early stopping has seen."""
    stalled: int = 0
    """Evaluations in a row without improvement."""
    is_stopped: bool = False
    """Whether the run was stopped early."""
    window: list[dict[str, Metric]] = field(default_factory=list)
    """The metrics of each iteration since the last record."""
    falling_answers: FallingAnswers = field(default_factory=FallingAnswers)

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        window = [{name: [float(m.value), m.reduction] for name, m in part.items()} for part in self.window]
        return {**vars(self), "window": window, "falling_answers": self.falling_answers.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of ``state``."""
        # Checkpoints of earlier versions lack some.
        saved = {name: state[name] for name in vars(self) if name in state}
        if "falling_answers" in saved:
            saved["falling_answers"] = FallingAnswers.of(saved["falling_answers"])
        vars(self).update(saved)
        self.window = [{name: Metric(*m) for name, m in part.items()} for part in state["window"]]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The functions that the session calls when an event is due."""

    evaluate: Callable[[], tuple[dict[str, float], Sequence[Mapping[str, Any]]]] | None
    """Returns (metrics, sample rows)."""
    save: Callable[[int], Path]
    """Writes the checkpoint of an update count."""
    best: BestModel | None = None
    stop: EarlyStopping | None = None


@dataclass(kw_only=True)
class Session:
    """One run from its first (or resumed) update to its last."""

    total_updates: int
    cadences: Cadences
    hooks: Hooks
    writers: Writers | SilentWriters
    timer: StageTimer
    progress: Progress
    counters: Counters = field(default_factory=Counters)
    log_first: bool = False
    """Whether to record the first update whatever the cadence."""
    memory: MemoryWatch | None = None
    traffic: Traffic | None = None
    """Bytes sent to other processes; None in a single process."""
    shown: Sequence[str] = ()
    """Metrics in the progress display."""
    signals: StopSignals = field(default_factory=StopSignals)
    liveness: Liveness = field(default_factory=Liveness)
    flat_rewards: FlatRewards = field(default_factory=FlatRewards)
    alarm: HackingAlarm | None = None
    """Watches for reward hacking; None where nothing is sampled and rewarded."""
    world: Group = ALONE
    """The processes that stop together when one receives a signal."""
    model: str = "policy"
    """The model that errors name by default: the one that the loop generates with and evaluates."""
    has_told_sharing: bool = False
    """Whether the log says how many tokens rows share."""
    go_on: str = "--resume_from_checkpoint true"
    """What to add to the command to continue the run."""

    @property
    def is_finished(self) -> bool:
        """True after the last update, or where the run was stopped early."""
        is_stopped = self.hooks.stop is not None and self.counters.is_stopped
        return is_stopped or self.is_stopped_at_best or self.counters.updates >= self.total_updates

    @property
    def is_stopped_at_best(self) -> bool:
        """True where a hacked reward has ended the run."""
        return self.alarm is not None and self.alarm.has_stopped

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Attribute time, memory and communication to the stage ``name``."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.timer.stage(name))
            if self.memory is not None:
                stack.enter_context(self.memory.phase(name))
            if self.traffic is not None:
                stack.enter_context(self.traffic.during(name))
            yield

    @contextlib.contextmanager
    def explaining(self, when: str) -> Iterator[None]:
        """Turn NotFiniteError into an error that names the model and the update and says what to do."""
        try:
            yield
        except NotFiniteError as error:
            model, made = error.model or self.model, self.counters.updates
            raise diverged(model, str(error), when, num_updates=made, is_trained=error.is_trained) from error

    def advance(
        self,
        metrics: Mapping[str, Metric],
        *,
        updates: int,
        epoch_ended: bool,
        samples: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """Count one iteration of ``updates`` updates; log, evaluate and save if due.

        ``samples`` returns rows of the iteration, recorded together with its metrics. If a process of the run has
        received a signal to stop, all of them save and raise Interrupted. A model that has stopped learning raises
        NumericalError before it is saved.
        """
        before = self.counters.updates
        self.counters.updates += updates
        if PASSED.given and not self.has_told_sharing:
            self.has_told_sharing = True
            log.info(f"share_prefixes: {PASSED} up to update {self.counters.updates}")
        self.counters.window.append(dict(metrics))
        ending = epoch_ended or self.is_finished
        span = (before, self.counters.updates)
        log_due = self.cadences.log.is_due(*span, epoch_ended=ending) or self.is_finished
        log_due = log_due or (self.log_first and before == 0)
        self.progress.advance(updates, **(self._flush() if log_due else {}))
        if log_due:
            self.writers.write_samples(self.counters.updates, samples())
        self.liveness.observe(metrics, update=self.counters.updates)
        self.flat_rewards.observe(metrics)
        self.counters.falling_answers.observe(metrics)
        if self.cadences.evaluate.is_due(*span, epoch_ended=ending):
            self.evaluate()
        stop = self._agree_on_signal()
        if stop or self.cadences.save.is_due(*span, epoch_ended=ending):
            with self.stage("save"):
                saved = self.hooks.save(self.counters.updates)
        if stop:
            raise Interrupted(
                stop,
                f"{signal.Signals(stop).name}: stopped after update {self.counters.updates} of {self.total_updates}; "
                f"{saved} is written. Continue with {self.go_on}",
                agreed=True,
            )

    def _agree_on_signal(self) -> int:
        """Return the number of the signal that any process of the run has received (the same in all); 0: none."""
        if self.world.size == 1:
            return self.signals.number
        return int(self.world.max_(paddle.to_tensor([float(self.signals.number)]), "signals").item())

    def evaluate(self) -> dict[str, float]:
        """Evaluate now, record the results, and keep the weights if they are the best so far.

        A result that is not finite is recorded and then raised as NumericalError.
        """
        if self.hooks.evaluate is None:
            return {}
        self.counters.evaluated_at = self.counters.updates
        with self.explaining(f"in the evaluation after update {self.counters.updates}"):
            return self._evaluate()

    def _evaluate(self) -> dict[str, float]:
        with self.stage("evaluate"):
            metrics, samples = self.hooks.evaluate()
        self.writers.write(self.counters.updates, metrics)
        self.writers.write_samples(self.counters.updates, samples)
        numbers = ", ".join(f"{name.removeprefix('eval/')} {value:.4g}" for name, value in metrics.items())
        log.info(f"evaluation after update {self.counters.updates}: {numbers}")
        bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise NotFiniteError(", ".join(bad))
        if self.alarm is not None:
            self.alarm.observe_evaluation(metrics, samples, step=self.counters.updates)
        self._keep_best(metrics)
        self._stop_early(metrics)
        return metrics

    def _flush(self) -> dict[str, float]:
        averaged = {name: metric.value for name, metric in average_metrics(self.counters.window).items()}
        averaged |= self.timer.pop()
        averaged |= self.memory.pop() if self.memory is not None else {}
        averaged |= self.traffic.pop() if self.traffic is not None else {}
        self.counters.window.clear()
        self.writers.write(self.counters.updates, averaged)
        return {name.split("/")[-1]: averaged[name] for name in self.shown if name in averaged}

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        best = self.hooks.best
        if best is None:
            return
        value, so_far = read_metric(metrics, best.metric), self.counters.best_value
        if not best.allows():
            return
        if so_far is None or (value > so_far if best.greater_is_better else value < so_far):
            self.counters.best_value, self.counters.best_step = value, self.counters.updates
            best.keep()

    def _stop_early(self, metrics: Mapping[str, float]) -> None:
        """Count an evaluation without improvement; after too many in a row the run is finished."""
        stop, counters = self.hooks.stop, self.counters
        if stop is None or counters.is_stopped:
            return
        value = read_metric(metrics, stop.metric)
        if stop.is_better(value, counters.peak_value):
            counters.peak_value, counters.stalled = value, 0
            return
        counters.stalled += 1
        if counters.stalled >= stop.patience and counters.updates < self.total_updates:
            counters.is_stopped = True
            log.info(
                f"early_stopping: {stop.metric} has not improved on {counters.peak_value:.4g} by more than "
                f"{stop.threshold:g} in the last {counters.stalled} evaluations: the run ends after update "
                f"{counters.updates} of {self.total_updates}"
            )
