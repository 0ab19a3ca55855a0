"""Record the template a model was trained with in its config.json, and warn when another one is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from alignment.architecture.decoder_config import DecoderConfig
from alignment.models.tokenizer.tokenizer import Tokenizer


def describe_template(name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the record of a template for config.json.

    ``name`` is ``none`` (the classic one), ``tokenizer`` (recorded by its hash) or the text of an ``input_template``.
    """
    if "{}" in name:
        return {"chat_template": "none", "input_template": name}
    if name != "tokenizer":
        return {"chat_template": name}
    return {"chat_template": name, "sha256": hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()}


def template_warning(place: str, config: DecoderConfig, tokenizer: Tokenizer, used: Mapping[str, Any]) -> str | None:
    """Return a warning if the model in ``place`` was, or may have been, trained with another template than ``used``.

    A model without a record was most likely trained with its tokenizer's chat template, if there is one.
    """
    recorded = config.trained_template
    if recorded is not None:
        if dict(recorded) == dict(used):
            return None
        return (
            f"{place}: was trained with {_in_words(recorded)}, and {_in_words(used)} is used now; answers are best "
            f"with the training template{_advice(recorded, used)}"
        )
    if tokenizer.chat_template and used == {"chat_template": "none"}:
        return (
            f"{place}: the tokenizer has a chat template of its own, and chat_template=none writes BEGINNING OF "
            "CONVERSATION: ... instead; chat_template=tokenizer uses the model's own"
        )
    return None


def _in_words(record: Mapping[str, Any]) -> str:
    name = record.get("chat_template")
    if "input_template" in record:
        return f"input_template={record['input_template']!r}"
    if name == "none":
        return "the classic template (chat_template=none)"
    return f"chat_template={name} ({str(record.get('sha256', ''))[:8]})"


def _advice(recorded: Mapping[str, Any], used: Mapping[str, Any]) -> str:
    if "input_template" in recorded:
        return f": give input_template={recorded['input_template']!r}"
    name = recorded.get("chat_template")
    same = name == used["chat_template"] and "input_template" not in used
    return ": the tokenizer's template has changed since then" if same else f": give chat_template={name}"
