"""Arguments of ``alignment generate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.arguments.groups import Groups
from alignment.fields import Case, argument, where
from alignment.runs.stages.server_arguments import ServerArguments
from alignment.runs.stages.stage_arguments import StageArguments

_ALL_ROWS = Case(lambda value, s: s.values.get("iter") is None, "iter is null: all prompts are answered")
_GREEDY = where("do_sample", False, why="do_sample is false: the likeliest token is always taken")


@dataclass(frozen=True, kw_only=True)
class GenerateArguments(StageArguments):
    """Who answers which prompts, and where the answers go."""

    model_name_or_path: str = argument(path="model", aliases=("pretrain", "policy"))
    """Folder or hub name of the model, or the output folder of a run."""
    prompts: str = argument(
        path="datasets", aliases=("dataset", "dataset_name_or_path", "prompt_data", "train_datasets")
    )
    """The prompts: datasets as in train_datasets. Each row is answered, equal ones too, in their order."""
    iter: int | None = argument(None, minimum=0)
    """Number of the slice of rollout_batch_size prompts that is answered, from 0; null: all prompts are."""
    rollout_batch_size: int | None = argument(None, minimum=1, inert_when=_ALL_ROWS)
    """Prompts of a slice; see iter."""
    per_device_rollout_batch_size: int = argument(32, minimum=1, aliases=("micro_batch_size", "max_num_seqs"))
    """Answers that a process generates side by side, or that each of the servers is asked for at once."""
    rollout_kv_memory: str | None = None
    """Memory of a process for keys and values in the fused engine (such as 2GiB), in which fewer answers may be
    generated side by side; null: room for all at full length."""
    seed: int = argument(42, minimum=0)
    """Seed of the random numbers: an answer depends on it, its prompt and its place, not on the other prompts."""


@dataclass(frozen=True, kw_only=True)
class AnswerArguments:
    """How many answers to each prompt, and how they are sampled."""

    num_return_sequences: int = argument(1, minimum=1, aliases=("K", "best_of_n", "n_samples_per_prompt"))
    """Answers to each prompt."""
    do_sample: bool = argument(True, advice={"greedy_sampling": "give do_sample: false for the likeliest tokens"})
    """Sample; false: always take the likeliest token."""
    temperature: float = argument(1.0, above=0)
    """Divides the logits, also in the log-probs that are written."""
    top_p: float = argument(1.0, above=0, maximum=1, inert_when=_GREEDY)
    """Sample from the most likely tokens up to this total probability; 1: all. Does not affect log-probs."""
    top_k: int = argument(0, minimum=0, inert_when=_GREEDY)
    """Sample from this many most likely tokens; 0: all. Does not affect log-probs."""
    repetition_penalty: float = argument(1.0, above=0)
    """Divides positive and multiplies negative logits of tokens that occurred before; 1: off."""
    max_dec_len: int = argument(512, minimum=1, aliases=("max_new_tokens", "generate_max_len"))
    """Maximum tokens of an answer."""
    min_dec_len: int = argument(0, minimum=0)
    """Minimum tokens of an answer before a stop token."""
    stop_token_ids: tuple[int, ...] = argument((), minimum=0, aliases=("eos_ids",))
    """Token ids that end an answer, in addition to the model's end tokens."""


@dataclass(frozen=True, kw_only=True)
class RowArguments:
    """How rows are read."""

    on_bad_row: Literal["drop", "error"] = "drop"
    """What to do with rows that cannot be used, such as empty prompts: drop and count, or stop."""
    chat_template: Literal["none", "tokenizer"] | None = None
    """As in training; null: the one the model was trained with, else the tokenizer's own."""
    input_template: str | None = None
    """Text around each user text, such as "User: {}\\nAssistant: ", instead of chat_template."""
    tokenizer_chat_template: str | None = argument(None, path="template")
    """A Jinja file, or Jinja text, that replaces the tokenizer's chat template."""
    input_key: str | None = argument(None, aliases=("prompt_key", "dataset_key"))
    """Column of the prompt: text, or messages; null: the layout of each row is recognised."""
    split: str | None = argument(None, aliases=("train_split", "prompt_split"))
    """Split to read, if a folder or hub dataset has several; null: train."""
    dataset_modules: tuple[str, ...] = argument((), path="module", separator=r"\s*,\s*")
    """Python modules or .py files, separated by commas, imported first so that they register their datasets."""

    @property
    def wanted_template(self) -> str | None:
        """``none``, ``tokenizer``, the text of ``input_template``, or None."""
        if self.tokenizer_chat_template is not None:
            return "tokenizer"
        return self.chat_template if self.input_template is None else self.input_template.replace("\\n", "\n")


@dataclass(frozen=True, kw_only=True)
class PromptArguments(RowArguments):
    """How rows become prompts."""

    max_prompt_len: int | None = argument(
        None, minimum=1, aliases=("max_src_len", "prompt_max_len", "max_input_length", "max_prompt_length")
    )
    """Maximum tokens of a prompt; null: what the model's positions leave without max_dec_len."""
    on_overlong: Literal["drop", "left", "right", "error"] = "drop"
    """What to do with longer prompts: drop, truncate left or right, or stop. They are counted."""
    label_key: str | None = None
    """Column of the reference answer, which is written beside the answers."""


GROUPS: Groups = {
    "generate": GenerateArguments,
    "answers": AnswerArguments,
    "rows": PromptArguments,
    "servers": ServerArguments,
}
