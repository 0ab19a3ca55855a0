"""Arguments of ``alignment eval``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from alignment.arguments.groups import Choice, Groups
from alignment.evaluation.rouge import TYPES
from alignment.fields import Case, Situation, argument, where, where_given
from alignment.runs.stages.generate_arguments import AnswerArguments, PromptArguments, RowArguments
from alignment.runs.stages.score_arguments import SourceArguments
from alignment.runs.stages.stage_arguments import WorkArguments

_READ = where_given("answers_file", why="answers_file is given: nothing is generated for it")


def _reads_all(value: object, s: Situation) -> bool:
    """Tell whether no answer is generated."""
    files = [name for name in ("answers_file", "other_answers_file") if name in s.values]
    return value is not None and all(s.values[name] is not None for name in files)


_ALL_READ = Case(_reads_all, "all answers are read from files", "all answers are read from files")


@dataclass(frozen=True, kw_only=True)
class EvalArguments(WorkArguments):
    """What is measured, and where the results go."""

    TARGET: ClassVar[str] = "output_dir"

    task: str
    """What is measured: perplexity, rouge, reward_accuracy, win_rate or pass_at_k."""
    output_dir: str = argument(path="output")
    """Folder of the results: results.json, evaluation.html and rows.jsonl, which appears last."""
    confidence: float = argument(0.95, above=0, below=1)
    """Confidence of the intervals."""
    num_samples: int = argument(8, minimum=0)
    """Rows shown on the page."""

    @property
    def output_file(self) -> str:
        """The rows."""
        return str(Path(self.output_dir) / "rows.jsonl")


@dataclass(frozen=True, kw_only=True)
class PerplexityArguments(RowArguments):
    """Whose perplexity, on which rows."""

    model_name_or_path: str = argument(path="model", aliases=("pretrain", "policy", "experiment_dir"))
    """Folder or hub name of the model, or the output folder of a run."""
    eval_datasets: str = argument(path="datasets", aliases=("datasets", "dataset", "dataset_name_or_path"))
    """The rows: datasets as in training."""
    loss_on: Literal["assistant", "last", "all", "text"] = "assistant"
    """Tokens that are counted: those of the assistant's turns, of the last one, all of the rendered conversation, or
    all of plain text without a template. The first token of a row has nothing before it and is never counted."""
    max_length: int | None = argument(None, minimum=2, aliases=("max_len",))
    """Tokens that are read at once; null: the model's positions."""
    on_overlong: Literal["window", "drop", "error"] = "window"
    """What to do with longer rows: read them in overlapping windows, drop them, or stop. They are counted."""
    stride: int | None = argument(None, minimum=1, inert_when=where("on_overlong", "drop", "error"))
    """Tokens between the starts of the windows of a longer row; null: half of max_length."""
    output_key: str | None = argument(None, aliases=("response_key", "answer_key"))
    """Column of the answer."""
    messages_key: str | None = None
    """Column of whole conversations."""
    per_device_eval_batch_size: int = argument(8, minimum=1, aliases=("micro_batch_size",))
    """Windows per forward pass."""


@dataclass(frozen=True, kw_only=True)
class EngineArguments:
    """How answers are generated."""

    per_device_rollout_batch_size: int = argument(32, minimum=1, aliases=("max_num_seqs",), inert_when=_ALL_READ)
    """Answers that a process generates side by side."""
    rollout_kv_memory: str | None = argument(None, inert_when=_ALL_READ)
    """Memory of a process for keys and values in the fused engine; null: room for all at full length."""
    seed: int = argument(42, minimum=0)
    """Seed of the answers: one depends on it, its prompt and its place, not on the other prompts."""


@dataclass(frozen=True, kw_only=True)
class AnsweringArguments(EngineArguments):
    """Whose answers."""

    model_name_or_path: str | None = argument(
        None, path="model", aliases=("policy", "experiment_dir"), inert_when=_READ
    )
    """Folder or hub name of the model that answers, or the output folder of a run; null: answers_file is given."""
    prompts: str | None = argument(
        None, path="datasets", aliases=("eval_datasets", "dataset", "prompt_data"), inert_when=_ALL_READ
    )
    """The prompts: datasets as in training."""
    answers_file: str | None = argument(None, path="file")
    """Answers that alignment generate wrote (or a prompt and a response a row), instead of a model and prompts."""


@dataclass(frozen=True, kw_only=True)
class RougeArguments(AnsweringArguments):
    """ROUGE of answers against references, the column label."""

    rouge_types: tuple[str, ...] = TYPES
    """The types of ROUGE: rouge1, rouge2 (or another number), rougeL, rougeLsum."""
    use_stemmer: bool = False
    """Whether words are compared by their stems (Porter)."""


@dataclass(frozen=True, kw_only=True)
class PassArguments(AnsweringArguments):
    """pass@k: reward_sources (usually a function) says of each answer whether it is correct."""

    k: tuple[int, ...] = argument((1,), minimum=1)
    """The numbers of tries; each needs at least as many answers to a prompt (num_return_sequences)."""
    correct_from: float | None = None
    """Least reward of a correct answer; null: rewards are 1 (correct) and 0."""


@dataclass(frozen=True, kw_only=True)
class WinRateArguments(AnsweringArguments):
    """How often the answers of a policy are better than another's, by reward_sources."""

    other_model_name_or_path: str | None = argument(None, path="model", aliases=("baseline", "reference_model"))
    """The policy that it is compared with; null: other_answers_file is given."""
    other_answers_file: str | None = argument(None, path="file")
    """Its answers to the same prompts."""
    tie_margin: float = argument(0.0, minimum=0)
    """Rewards that differ by no more are a tie, which counts as half a win."""


@dataclass(frozen=True, kw_only=True)
class RewardAccuracyArguments:
    """How often reward_sources give the better answer of a pair the higher score."""

    pairs_file: str = argument(path="file", aliases=("dataset", "dataset_name_or_path", "data_set_name"))
    """Pairs: a file, or a folder such as a local copy of RewardBench (prompt, chosen, rejected, subset)."""
    split: str | None = None
    """Split to read, if the folder has several; null: filtered, test, validation or train, whichever exists first."""
    subset_key: str = "subset"
    """Column of the subset; rows without it are of the subset all."""
    sections: str | None = argument(None)
    """rewardbench (Chat, Chat Hard, Safety, Reasoning), or a JSON file of {section: {subset: weight}}; null: only
    subsets are reported."""
    section_weights: Literal["benchmark", "rows"] = "benchmark"
    """How subsets count in their section: by the weights of sections (RewardBench's give mathematics as much as code),
    or by their rows."""
    allow_missing: bool = argument(False)
    """Whether sections without rows are left out; false: that is an error."""
    on_overlong: Literal["drop", "error"] = "drop"
    """What to do with pairs too long for a reward model: drop and count, or stop."""
    input_key: str | None = argument(None, aliases=("prompt_key",))
    """Column of the prompt; null: the layout of each row is recognised."""
    chosen_key: str | None = None
    """Column of the better answer."""
    rejected_key: str | None = None
    """Column of the worse answer."""
    layout: str | None = None
    """Name of the layout, needed if the columns fit several."""
    ignored_columns: tuple[str, ...] = argument((), separator=r"\s*,\s*")
    """Columns to ignore, separated by commas."""
    record_file: str | None = argument(None, aliases=("record_dir",))
    """A file to which the model's name and the score of each section in per cent are appended, as RLHFlow's
    eval_reward_bench_bt.py writes them, unless it already ends with them."""


TASKS = {
    "perplexity": PerplexityArguments,
    "rouge": RougeArguments,
    "reward_accuracy": RewardAccuracyArguments,
    "win_rate": WinRateArguments,
    "pass_at_k": PassArguments,
}
_ANSWERING = ("rouge", "win_rate", "pass_at_k")
_JUDGED = ("reward_accuracy", "win_rate", "pass_at_k")
GROUPS: Groups = {
    "eval": EvalArguments,
    "options": Choice("task", TASKS),
    "answers": Choice("task", {task: AnswerArguments if task in _ANSWERING else None for task in TASKS}),
    "rows": Choice("task", {task: PromptArguments if task in _ANSWERING else None for task in TASKS}),
    "sources": Choice("task", {task: SourceArguments if task in _JUDGED else None for task in TASKS}),
}
