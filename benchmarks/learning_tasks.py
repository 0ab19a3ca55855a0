"""The three generated tasks of ``learning.py``: prompts, sloppy answers, pairs, and a true score that no model sees.

``packing`` is the shipped task; ``sorting`` asks for words of numbers in ascending order, ``closing`` for the closing
brackets of a row of open ones. Rows are drawn from a seed. No wanted answer of the held-out prompts occurs in training.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from alignment.data.sources import packing
from alignment.data.sources.packing_generate import (
    DEMONSTRATOR_CARE,
    SPECIAL_TOKENS,
    build_tokenizer,
    build_tokenizer_config,
    is_held_out,
    write_answer,
)

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
BRACKETS = MappingProxyType({"(": ")", "[": "]", "{": "}", "<": ">", "/": "\\", "begin": "end"})
NUM_ROWS = {"sft": (6000, 100), "pairs": (24000, 300), "prompts": (3000, 200)}
"""Kind of file to rows for training and held out."""


class Task(NamedTuple):
    """A task; an answer is words, of which ``done`` should be the last."""

    opening: str
    """First word of a prompt; what is asked follows."""
    asked: Sequence[str]
    """Words that a prompt may ask about, 2 to 4 of them."""
    is_repeated: bool
    """Whether a prompt may ask about a word several times."""
    wanted: Callable[[Sequence[str]], list[str]]
    """Return the best answer to what is asked, without ``done``."""
    write: Callable[[Sequence[str], float, Random], str]
    """Return an answer with ``care`` between 0 and 1, by wanted words."""
    score: Callable[[str, str], float]
    """Return the true score of (prompt, answer): 1.2 is perfect, bad answers are below 0."""

    @property
    def words(self) -> list[str]:
        """The vocabulary, without special tokens."""
        answers = self.wanted(self.asked)
        return list(dict.fromkeys([self.opening, packing.CLOSING, *packing.FILLERS, *self.asked, *answers]))


def _in_order(numbers: Sequence[str]) -> list[str]:
    return sorted(numbers, key=NUMBERS.index)


def _closed(opened: Sequence[str]) -> list[str]:
    return [BRACKETS[word] for word in reversed(opened)]


def _ordered_task(opening: str, asked: Sequence[str], is_repeated: bool, wanted: Callable) -> Task:
    pool = wanted(asked)

    def write(words: Sequence[str], care: float, rng: Random) -> str:
        return write_in_order(words, pool, care, rng)

    def score(prompt: str, answer: str) -> float:
        words = prompt.split()
        start = len(words) - words[::-1].index(opening)
        return score_in_order(wanted([word for word in words[start:] if word in asked]), pool, answer)

    return Task(opening, asked, is_repeated, wanted, write, score)


def write_in_order(wanted: Sequence[str], pool: Sequence[str], care: float, rng: Random) -> str:
    """Return ``wanted`` as one writes it who forgets, swaps, adds and mumbles, the less the more ``care``."""
    slack = 1.0 - care
    words = [word for word in wanted if rng.random() < 0.4 + 0.6 * care] or [wanted[0]]
    for place in range(len(words) - 1):
        if rng.random() < 0.5 * slack:
            words[place], words[place + 1] = words[place + 1], words[place]
    for chance, others in ((0.4, pool), (0.4, pool), (0.3, packing.FILLERS), (0.3, packing.FILLERS)):
        if rng.random() < chance * slack:
            words.insert(int((len(words) + 1) * rng.random()), others[int(len(others) * rng.random())])
    return " ".join([*words, packing.CLOSING] if rng.random() < 0.5 + 0.5 * care else words)


def score_in_order(wanted: Sequence[str], pool: Sequence[str], answer: str) -> float:
    """Return ``(in order - 0.5 * others) / wanted + 0.2 * closed - 0.05 * superfluous``.

    ``in order`` is the longest common subsequence with ``wanted``, ``others`` are the further words of ``pool``;
    ``closed`` and ``superfluous`` are those of the packing task.
    """
    words = answer.split()
    told = [word for word in words if word in pool]
    right = common_subsequence(told, wanted)
    closed = bool(words) and words[-1] == packing.CLOSING and words.count(packing.CLOSING) == 1
    superfluous = len(words) - len(told) - int(closed)
    return (right - 0.5 * (len(told) - right)) / len(wanted) + 0.2 * closed - 0.05 * superfluous


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in left:
        new = [0]
        for place, other in enumerate(right):
            new.append(row[place] + 1 if word == other else max(new[-1], row[place + 1]))
        row = new
    return row[-1]


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "packing": Task(packing.OPENING, packing.ITEMS, False, list, write_answer, packing.true_score),
        "sorting": _ordered_task("sort", NUMBERS, False, _in_order),
        "closing": _ordered_task("close", tuple(BRACKETS), True, _closed),
    }
)


def draw(task: Task, rng: Random, *, test: bool) -> list[str]:
    """Return 2 to 4 words to ask about; those whose sorted words say so are held out for the tests."""
    while True:
        count, pool = 2 + int(3 * rng.random()), list(task.asked)
        asked = [pool[int(len(pool) * rng.random())] for _ in range(count)]
        has_right_words = task.is_repeated or max(Counter(asked).values()) == 1
        if has_right_words and _is_held_out(task, asked) == test:
            return asked


def _is_held_out(task: Task, asked: Sequence[str]) -> bool:
    if task.is_repeated:  # the order is what is asked
        return zlib.crc32(" ".join(asked).encode()) % 10 == 0
    return is_held_out(asked)


def generate_rows(task: Task, kind: str, *, seed: int, test: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; ``kind`` is a key of ``NUM_ROWS``."""
    rng, count = Random(f"{task.opening} {kind} {seed} {test}"), 0
    while count < NUM_ROWS[kind][test]:
        asked = draw(task, rng, test=test)
        prompt, wanted = " ".join([task.opening, *asked]), task.wanted(asked)
        row: dict[str, Any] = {"input": prompt}
        if kind == "sft":
            row["answer"] = task.write(wanted, DEMONSTRATOR_CARE, rng)
        elif kind == "pairs":
            answers = [task.write(misread(wanted, task, rng), rng.random(), rng) for _ in range(2)]
            scores = [task.score(prompt, answer) for answer in answers]
            if abs(scores[0] - scores[1]) < 1e-9:
                continue
            row |= {"answer": answers[0], "other_answer": answers[1], "better": scores[0] > scores[1]}
        count += 1
        yield row


def misread(wanted: Sequence[str], task: Task, rng: Random) -> list[str]:
    """Return, half the time, ``wanted`` with about half of its words replaced: such answers do not fit their prompt."""
    pool = task.wanted(task.asked)
    if rng.random() < 0.5:
        return list(wanted)
    return [pool[int(len(pool) * rng.random())] if rng.random() < 0.5 else word for word in wanted]


def write_task(name: str, seed: int, folder: Path) -> None:
    """Write rows, tokenizer and the shape of the model for a task into ``folder``."""
    task = TASKS[name]
    (folder / "model").mkdir(parents=True, exist_ok=True)
    for kind in NUM_ROWS:
        for split in ("train", "test"):
            rows = generate_rows(task, kind, seed=seed, test=split == "test")
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{kind}_{split}.jsonl").write_text(text, encoding="utf-8")
    tokens = [*SPECIAL_TOKENS, *task.words]
    tokenizer = build_tokenizer()
    tokenizer["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
    config, special = build_tokenizer_config()
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config,
        "special_tokens_map.json": special,
        "config.json": {**SHAPE, "vocab_size": len(tokens)},
    }
    for file, content in files.items():
        (folder / "model" / file).write_text(json.dumps(content, indent=1), encoding="utf-8")


SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "dtype": "float32",
}
"""``config.json`` of the policy, without its vocabulary: 90,000 parameters."""


def truth(prompts: Sequence[str], responses: Sequence[str], labels: Any, task: str) -> list[float]:
    """Return the true scores, as a second judge (``eval_reward``)."""
    return [TASKS[task].score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
