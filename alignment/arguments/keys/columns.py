"""Arguments that name the columns of raw rows, for datasets that read files of any layout (jsonl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import Case, Situation, argument, unless


def _lacks_margin(value: Any, s: Situation) -> bool:
    """Tell whether no loss has a margin and no pairwise model is judged by margins."""
    is_judged = "pairwise_letters" in s.values and "rl_algorithm" not in s.values
    asks = any(map(s.values.get, ("margin_loss", "margin_scale", "offset_alpha")))
    return value is not None and not (asks or is_judged)


_NO_MARGIN = Case(
    _lacks_margin,
    "no margin is asked for",
    "none of margin_loss, margin_scale and offset_alpha is given, except for pairwise models",
)


@dataclass(frozen=True, kw_only=True)
class ColumnArguments:
    """Names of columns; without them the layout of each row is recognised. Each dataset in a list may have its own."""

    input_key: str | None = argument(None, aliases=("prompt_key",))
    """Column of the prompt: text, or messages."""
    output_key: str | None = argument(None, aliases=("response_key", "answer_key"))
    """Column of the answer."""
    label_key: str | None = None
    """Column of the reference answer of a prompt; together with output_key: whether the answer is desirable."""
    chosen_key: str | None = None
    """Column of the better answer, or of the conversation that ends with it."""
    rejected_key: str | None = None
    """Column of the worse answer, or of the conversation that ends with it."""
    chosen_score_key: str | None = None
    """Column of the chosen answer's score: the higher score is better, equal scores are a tie."""
    rejected_score_key: str | None = None
    """Column of the rejected answer's score."""
    margin_key: str | None = argument(None, inert_when=_NO_MARGIN)
    """Column of the margin by which the better answer must win (margin_loss, margin_scale, offset_alpha); null: the
    difference of the scores if their columns are named, else the column margin. A pairwise model has no such loss: its
    readiness shows the accuracy by the margin, if this is given."""
    attributes_key: str | None = argument(
        None, inert_when=unless("objective", "regression", why="objective is not regression")
    )
    """Column of a list with the values of all attributes; null: a column for each, under its name."""
    messages_key: str | None = None
    """Column of whole conversations."""
    system_key: str | None = None
    """Column of the system message."""
    tools_key: str | None = None
    """Column of the tools that the assistant may call."""
    layout: str | None = None
    """Name of the layout, needed if the columns fit several; the error message lists them."""
    ignored_columns: tuple[str, ...] = argument((), separator=r"\s*,\s*")
    """Columns to ignore, separated by commas."""
    train_split: str | None = None
    """Split of train_datasets and ptx_datasets to read, if a folder or hub dataset has several; null: train."""
    eval_split: str | None = argument(None, inert_when=NO_EVALUATION)
    """Split of eval_datasets to read; null: validation, or test if there is none."""
