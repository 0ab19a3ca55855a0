"""Arguments of the models and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """How models and tokenizers are loaded."""

    tokenizer_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the tokenizer; null: the model's own folder."""
