"""The facts that distinguish one offline objective from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from alignment.algorithms.preference.spec import LabelledAnswers, Survey
from alignment.arguments.keys.offline import OfflineArguments
from alignment.arguments.parser import Check
from alignment.data.encoded.tokenized import Sample, TokenizedDataset
from alignment.loops.evaluation import Evaluation
from alignment.loops.supervised import SupervisedTask
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.runner import ModelRunner
from alignment.records import Loss, TokenBatch
from alignment.runs.launch import Launch


class TrainedModel(NamedTuple):
    """The model that a run trains."""

    name: str
    """Its folder under ``output_dir``, and the prefix of its metrics."""
    parts: tuple[str, ...]
    """Models that may be taken if the starting folder is the output of another run."""
    load: Callable[..., Any]
    """Called with launch, folder (None: random weights), tokenizer, and ``is_trained=False`` for a frozen model of the
    same kind, which is never held in 4 bits."""


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """The inputs of an evaluation."""

    launch: Launch
    objective: OfflineObjective
    task: SupervisedTask
    runner: ModelRunner
    tokenizer: Tokenizer
    held_out: Sequence[Sample]
    training: Sequence[Sample]
    """The first training samples, as many as are held out (or all)."""
    datasets: Sequence[str] = ()
    """The dataset of each held-out sample; empty if unknown."""

    @property
    def rows_per_batch(self) -> int:
        """Samples per micro-batch."""
        return self.launch.parsed.training.per_device_eval_batch_size


class LossFunction(Protocol):
    """A pure loss of ``algorithms`` on the model's output for one micro-batch."""

    def __call__(self, output: Any, *, fields: Any, hyperparameters: Any, denominator: Any) -> Loss:
        """``output`` is the result of ``read``, ``fields`` are the batch's fields as tensors (see
        ``fields_as_tensors``), and ``denominator`` is the result of ``count`` for all micro-batches of the update.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OfflineObjective:
    """Everything that the shared assembly needs to know about SFT, a reward model, DPO, ..."""

    name: str
    """Prefix of the loss's metrics."""
    title: str
    """Name of the run in the log and the report."""
    model: TrainedModel
    dataset: type[TokenizedDataset]
    make_batch: Callable[[Sequence[Sample]], TokenBatch]
    """Makes model input from the samples of a micro-batch; if a sample makes two rows, all first rows come first."""
    read: Callable[[Any, TokenBatch], Any]
    """Computes what the loss needs from the model, with gradients."""
    loss: LossFunction
    reader: Callable[[Any], Callable[[Any, TokenBatch], Any]] | None = None
    """Given the hyperparameters, returns what is read for the loss instead of ``read``. None: nothing else."""
    rows_per_sample: int = 1
    """Rows that ``make_batch`` makes per sample."""
    targets_per_row: int | None = None
    """Number of target tokens of each row; None: about all of them."""
    count: Callable[[Sequence[TokenBatch]], Any]
    """Computes the denominator of the loss from all micro-batches of an update."""
    make_evaluation: Callable[[EvaluationInputs], Callable[[], Evaluation]]
    best_metric: str
    """Evaluation metric for the best model, without the ``eval/`` prefix."""
    shown: tuple[str, ...]
    """Metrics in the progress display."""
    cards: tuple[str, ...]
    """Evaluation metrics at the top of the report."""
    check_rows: Callable[[Launch, Sequence[Sample]], None] | None = None
    """Refuses training rows from which nothing can be learned."""
    settle_model: Callable[[Launch, Any, Sequence[Sample]], None] | None = None
    """Called with the loaded model and the training rows, to compute what is not learned by updates. All processes
    call it."""
    after_update: Callable[[Any, ModelRunner], None] | None = None
    """Called with the model and its runner after each update."""
    arguments: type = OfflineArguments
    """The argument group ``offline``."""
    hyperparameters: type | None = None
    """The argument group ``loss``, passed to the loss."""
    checks: tuple[Check, ...] = ()
    """Checks of combinations of arguments, in addition to those of all trainers."""
    labels: LabelledAnswers | None = None
    """What a loss on labelled answers adds (the fields ``desirable`` and ``baseline``); None: it has other rows."""
    make_survey: Callable[[Any], Survey | None] | None = None
    """Given the hyperparameters, returns what measures the results of ``read`` of a whole update. None: never."""
    needs_reference: Callable[[Any], bool] | None = None
    """Given the hyperparameters, whether the loss uses the field ``reference``: the result of ``read`` for the frozen
    starting model, one number per row. None: never, and there are no arguments about a reference.
    """
    needs_teacher: bool = False
    """Whether the loss gets the result of ``Teacher.read``; ``read`` then only shows that the weights are finite."""

    def read_for(self, hyperparameters: Any) -> Callable[[Any, TokenBatch], Any]:
        """Return what is read for the loss with these ``hyperparameters``."""
        return self.read if self.reader is None else self.reader(hyperparameters)
