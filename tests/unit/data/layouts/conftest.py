"""A tokenizer of characters, so that what a model reads can be compared as text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


class CharTokenizer:
    """One id a character; ``$`` ends an answer; the template writes ``S:..|U:..|A:..$|`` and tools as ``[name]``."""

    eos_token, bos_token, eos_token_id, pad_token_id, chat_template = "$", "^", ord("$"), 0, "a template"

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def __len__(self) -> int:
        return 0x110000

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text = "".join(chr(int(number)) for number in ids)
        return text.replace("$", "") if skip_special_tokens else text

    def apply_chat_template(
        self, messages: Sequence[dict], *, tokenize: bool = False, add_generation_prompt: bool = True, tools=()
    ) -> str:
        text = "".join(f"[{tool['name']}]" for tool in tools)
        for message in messages:
            calls = "".join(
                f"{c['function']['name']}{c['function']['arguments']}" for c in message.get("tool_calls", ())
            )
            end = "$|" if message["role"] == "assistant" else "|"
            text += f"{message['role'][0].upper()}:{message['content']}{calls}{end}"
        return text + ("A:" if add_generation_prompt else "")


@pytest.fixture
def characters() -> CharTokenizer:
    return CharTokenizer()
