"""Arguments of raw rows: which columns hold what, for datasets that read files of any layout (jsonl)."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class ColumnArguments:
    """Names of columns; without them the layout of each row is recognised. A dataset of a list may say its own."""

    input_key: str | None = argument(None, aliases=("prompt_key",))
    """Column of the prompt: text, or messages."""
    output_key: str | None = argument(None, aliases=("response_key", "answer_key"))
    """Column of the answer."""
    label_key: str | None = None
    """Column of the reference answer of a prompt; beside output_key: whether the answer is wanted (true, false)."""
    chosen_key: str | None = None
    """Column of the better answer, or of the conversation that ends with it."""
    rejected_key: str | None = None
    """Column of the worse answer, or of the conversation that ends with it."""
    chosen_score_key: str | None = None
    """Column of the score of the chosen answer: the higher score is better, equal scores are a tie."""
    rejected_score_key: str | None = None
    """Column of the score of the rejected answer."""
    messages_key: str | None = None
    """Column of whole conversations."""
    system_key: str | None = None
    """Column of the system message."""
    tools_key: str | None = None
    """Column of the tools that the assistant may call."""
    layout: str | None = None
    """Name of the layout of the rows, where their columns fit several; the message that asks for it names them."""
    ignored_columns: tuple[str, ...] = argument((), separator=r"\s*,\s*")
    """Columns to leave out, separated by commas."""
    train_split: str | None = None
    """Split that train_datasets and ptx_datasets read of a folder or hub dataset with several; null: train."""
    eval_split: str | None = argument(None, inert_when=NO_EVALUATION)
    """Split that eval_datasets read; null: validation, or test where there is none."""
