"""Write the shipped data of the packing task: ``python -m alignment.data.sources.packing_generate OUT``.

All random numbers come from ``random.Random.random``, whose sequence for a seed Python guarantees, so the bytes never
change.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

from alignment.data.sources.packing import CLOSING, FILLERS, ITEMS, OPENING, true_score

T = TypeVar("T")

SEED = 20261120
NUM_ROWS = {"sft": (8000, 300), "preference": (14000, 500), "prompts": (4000, 200)}
"""File stem to number of rows of the training and the test split."""
HELD_OUT = 10
"""One wanted set in ten belongs to the test splits."""
LABEL_NOISE = 0.05
"""Share of training pairs whose label is flipped."""
DEMONSTRATOR_CARE = 0.5

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ ' <user> ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ ' <assistant> ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant turns') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant> ' }}{% endif %}"
)


class Habits(NamedTuple):
    """The behaviour of a packer; every field is a probability."""

    covers: float
    """Of naming each wanted item."""
    adds: float
    """Of adding an unwanted item, three times."""
    repeats: float
    """Of repeating an item, twice."""
    mumbles: float
    """Of adding a filler word, twice."""
    closes: float
    """Of saying ``done``."""


def habits(care: float) -> Habits:
    """Return the habits of a packer; ``care`` goes from careless (0) to perfect (1)."""
    slack = 1.0 - care
    return Habits(0.3 + 0.7 * care, 0.5 * slack, 0.4 * slack, 0.3 * slack, 0.5 + 0.5 * care)


def write_answer(wanted: Sequence[str], care: float, rng: Random) -> str:
    """Return an answer of a packer with this ``care``; never empty."""
    habit = habits(care)
    words = [item for item in wanted if rng.random() < habit.covers] or [_pick(wanted, rng)]
    others = [item for item in ITEMS if item not in wanted]
    words += [_pick(others, rng) for _ in range(3) if rng.random() < habit.adds]
    words += [_pick(words, rng) for _ in range(2) if rng.random() < habit.repeats]
    words += [_pick(FILLERS, rng) for _ in range(2) if rng.random() < habit.mumbles]
    words = _shuffled(words, rng)
    return " ".join([*words, CLOSING] if rng.random() < habit.closes else words)


def is_held_out(wanted: Sequence[str]) -> bool:
    """Tell whether this set of items belongs to the test splits; order does not matter."""
    return zlib.crc32(" ".join(sorted(wanted)).encode()) % HELD_OUT == 0


def generate_rows(kind: str, *, test: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file; ``kind`` is a key of ``NUM_ROWS``."""
    rng = Random(f"{SEED} {kind} {'test' if test else 'train'}")
    num_rows, seen = NUM_ROWS[kind][int(test)], set()
    while len(seen) < num_rows:
        wanted = _shuffled(ITEMS, rng)[: 3 + int(3 * rng.random())]
        key = tuple(wanted)
        if key in seen or is_held_out(wanted) != test:
            continue
        row = _ROWS[kind](wanted, rng, test)
        if row is not None:
            seen.add(key)
            yield {"input": f"{OPENING} {' '.join(wanted)}", **row}


def build_tokenizer() -> dict[str, Any]:
    """Return a word-level ``tokenizer.json``: one token per word, no text cleaning."""
    words = [*SPECIAL_TOKENS, OPENING, CLOSING, *FILLERS, *ITEMS]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }


def build_tokenizer_config() -> tuple[dict[str, Any], dict[str, str]]:
    """Return ``tokenizer_config.json`` and ``special_tokens_map.json``."""
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = {
        **names,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    return config, {**names, "additional_special_tokens": ["<user>", "<assistant>"]}  # type: ignore[dict-item]


def write_files(folder: Path) -> list[Path]:
    """Write every data and tokenizer file under ``folder`` and return their paths."""
    contents = {
        f"{kind}_{split}.jsonl": "".join(
            json.dumps(row, separators=(",", ":")) + "\n" for row in generate_rows(kind, test=split == "test")
        )
        for kind in NUM_ROWS
        for split in ("train", "test")
    }
    config, special = build_tokenizer_config()
    for name, value in (
        ("tokenizer.json", build_tokenizer()),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special),
    ):
        contents[f"tokenizer/{name}"] = json.dumps(value, indent=1) + "\n"
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_bytes(text.encode())
    return [folder / name for name in contents]


def _sft_row(wanted: Sequence[str], rng: Random, test: bool) -> dict[str, Any]:
    return {"answer": write_answer(wanted, DEMONSTRATOR_CARE, rng)}


def _preference_row(wanted: Sequence[str], rng: Random, test: bool) -> dict[str, Any] | None:
    """Return two answers of packers with random care; None if their true scores are equal."""
    prompt = f"{OPENING} {' '.join(wanted)}"
    answers = [write_answer(wanted, rng.random(), rng) for _ in range(2)]
    scores = [true_score(prompt, answer) for answer in answers]
    turned = rng.random() < LABEL_NOISE and not test
    if abs(scores[0] - scores[1]) < 1e-9:
        return None
    return {"answer": answers[0], "other_answer": answers[1], "better": (scores[0] > scores[1]) != turned}


def _prompts_row(wanted: Sequence[str], rng: Random, test: bool) -> dict[str, Any]:
    return {}


def _pick(values: Sequence[T], rng: Random) -> T:
    return values[int(len(values) * rng.random())]


def _shuffled(values: Sequence[T], rng: Random) -> list[T]:
    return sorted(values, key=lambda _: rng.random())


_ROWS = {"sft": _sft_row, "preference": _preference_row, "prompts": _prompts_row}


def main() -> None:
    """Read the output folder from the command line and write the files."""
    parser = argparse.ArgumentParser(description="Write the shipped data of the packing task.")
    parser.add_argument("out", type=Path, help="folder to write to")
    for path in write_files(parser.parse_args().out):
        print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
