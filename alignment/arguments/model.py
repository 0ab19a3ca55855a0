"""Arguments of the models and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument, inert


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """How models and tokenizers are loaded."""

    tokenizer_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the tokenizer; null: the model's own folder."""
    use_flash_attention: bool = inert(False, "it is used wherever it exists: in bfloat16 on a GPU, and nowhere else")
    """Use flash attention."""
