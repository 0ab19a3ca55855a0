"""What distinguishes one run on a dataset from another: an offline objective is one row of these facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
    """Models that may be taken where the folder to start from is that of another run."""
    load: Callable[[Launch, str | None, Tokenizer], Any]
    """Returns the model of a folder, or with random weights where there is none."""


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What an evaluation is made of."""

    launch: Launch
    objective: OfflineObjective
    task: SupervisedTask
    runner: ModelRunner
    tokenizer: Tokenizer
    held_out: Sequence[Sample]
    training: Sequence[Sample]
    """The first samples of the training data, as many as are held out (or all)."""

    @property
    def rows_per_batch(self) -> int:
        """Samples of one micro-batch."""
        return self.launch.parsed.training.per_device_eval_batch_size


class LossFunction(Protocol):
    """A pure loss of ``algorithms`` on what was read from the model for one micro-batch."""

    def __call__(self, output: Any, *, fields: Any, hyperparameters: Any, denominator: Any) -> Loss:
        """``output`` is what ``read`` returned, ``fields`` the batch's as tensors (see ``fields_as_tensors``), and
        ``denominator`` what ``count`` found in all micro-batches of the update.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OfflineObjective:
    """A row: everything that the shared assembly asks of SFT, a reward model, DPO, ..."""

    name: str
    """Prefix of the metrics that the loss names."""
    title: str
    """What the log and the report call the run."""
    model: TrainedModel
    dataset: type[TokenizedDataset]
    make_batch: Callable[[Sequence[Sample]], TokenBatch]
    """Samples of one micro-batch to model input. Where a sample makes several rows, all first ones come first."""
    read: Callable[[Any, TokenBatch], Any]
    """What the loss needs of the model, with gradients."""
    loss: LossFunction
    rows_per_sample: int = 1
    """Rows that ``make_batch`` makes of a sample."""
    count: Callable[[Sequence[TokenBatch]], Any]
    """All micro-batches of an update to the denominator of the loss."""
    make_evaluation: Callable[[EvaluationInputs], Callable[[], Evaluation]]
    best_metric: str
    """Of the evaluation, without its prefix."""
    shown: tuple[str, ...]
    """Metrics of the progress display."""
    cards: tuple[str, ...]
    """Evaluation metrics that the report shows first."""
    after_update: Callable[[Any, ModelRunner], None] | None = None
    """Called with the model and its runner when an update was applied."""
    arguments: type = OfflineArguments
    """Its group ``offline``."""
    hyperparameters: type | None = None
    """Its group ``loss``, which the loss gets."""
    checks: tuple[Check, ...] = ()
    """What its arguments must be together, beyond what those of all trainers must be."""
    needs_reference: Callable[[Any], bool] | None = None
    """Given the hyperparameters: whether the loss reads ``reference`` of the fields, what ``read`` gives for the frozen
    starting model, one number a row. None: never, and there are no arguments about a reference.
    """
