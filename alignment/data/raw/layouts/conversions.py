"""Convert rows of the known layouts to samples, one short function per layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from alignment.data.raw.layouts.layout import Convert, Row
from alignment.data.raw.layouts.samples import (
    answered,
    compare,
    conversation_of,
    flag_of,
    pair_of,
    prompt_of,
    ranked_of,
    sample_of,
)
from alignment.data.raw.layouts.transcripts import is_transcript, read_transcript
from alignment.data.raw.layouts.turns import dialogue_turns, join_texts, read_turns
from alignment.errors import DataError
from alignment.records import RawSample

SAFE_RLHF = (
    *("prompt", "response_0", "response_1", "better_response_id", "safer_response_id"),
    *("is_response_0_safe", "is_response_1_safe"),
)
OWN_FIELDS = (
    *("answer", "other_answer", "better", "safer", "is_safe", "is_other_safe", "desirable"),
    *("steps", "step_labels"),
)


def own(row: Row, place: object) -> RawSample:
    """Fields of ``RawSample`` under their own names; ``input`` may have any form of a prompt."""
    sample = {name: row[name] for name in OWN_FIELDS if name in row}
    return RawSample(input=prompt_of(row["input"], place), **sample)


def labelled_steps(row: Row, place: object) -> RawSample:
    """Steps of an answer, with a label for each (TRL's stepwise supervision)."""
    return RawSample(input=prompt_of(row["prompt"], place), steps=row["completions"], step_labels=row["labels"])


def own_with(prompt: str) -> Convert:
    """Like ``own``, with the input in another column."""
    return lambda row, place: own({**row, "input": row[prompt]}, place)


def dialogue(row: Row, place: object) -> RawSample:
    """``dialogue``: alternating turns, or messages."""
    turns = row["dialogue"]
    return RawSample(dialogue=turns) if _is_texts(turns) else conversation_of(turns, place)


def answer_in(prompt: str, answer: str) -> Convert:
    """A prompt and an answer in the named columns."""
    return lambda row, place: answered(row[prompt], row[answer], place)


def prompt_in(name: str) -> Convert:
    """Only a prompt, in the named column."""
    return lambda row, place: RawSample(input=prompt_of(row[name], place))


def pair_in(prompt: str | None, chosen: str = "chosen", rejected: str = "rejected") -> Convert:
    """A chosen and a rejected answer, with the prompt in a column or inside the answers."""
    return lambda row, place: pair_of(row[prompt] if prompt else None, row[chosen], row[rejected], place)


def alpaca(answer: str | None) -> Convert:
    """``instruction`` and ``input`` (or ``context``) joined by a space, earlier turns in ``history``, and an answer."""

    def convert(row: Row, place: object) -> RawSample:
        given = _instruction(row, place)
        return answered(given, row[answer], place) if answer else RawSample(input=prompt_of(given, place))

    return convert


def alpaca_pair(row: Row, place: object) -> RawSample:
    """Like ``alpaca``, with ``chosen`` and ``rejected``."""
    return pair_of(_instruction(row, place), row["chosen"], row["rejected"], place)


def desirable(convert: Convert, label: str) -> Convert:
    """Add to another layout a label that says whether the answer is desirable."""

    def labelled(row: Row, place: object) -> RawSample:
        return RawSample(**convert(row, place), desirable=flag_of(row[label], f"{place}: column {label!r}"))

    return labelled


def conversation_in(name: str) -> Convert:
    """Whole conversations in the named column; a ``prompt`` column must repeat one of their questions."""

    def convert(row: Row, place: object) -> RawSample:
        if row.get("prompt") and row[name] is not None:
            _check_agrees(row["prompt"], read_turns(row[name], place), place)
        return conversation_of(row[name], f"{place}: column {name!r}")

    return convert


def labelled_conversation(name: str, label: str) -> Convert:
    """A conversation with a label that says whether its last answer is desirable."""

    def convert(row: Row, place: object) -> RawSample:
        turns = read_turns(row[name], place)
        return answered(turns[:-1], turns[-1:], place)

    return desirable(convert, label)


def conversation_pair(name: str) -> Convert:
    """Earlier turns in the named column, with two answers to them."""
    return lambda row, place: pair_of(row[name], row["chosen"], row["rejected"], place)


def ultrafeedback(row: Row, place: object) -> RawSample:
    """``chosen`` and ``rejected`` conversations; ``messages`` repeats the chosen one."""
    if read_turns(row["messages"], place) != read_turns(row["chosen"], place):
        raise DataError(f"{place}: column 'messages' is not the chosen conversation; leave it out with ignored_columns")
    return pair_of(row["prompt"], row["chosen"], row["rejected"], place)


def rejected_in(name: str) -> Convert:
    """``messages`` ending with the chosen answer, and the rejected answer in the named column."""

    def convert(row: Row, place: object) -> RawSample:
        turns, rejected = read_turns(row["messages"], place), row[name]
        if isinstance(rejected, str):
            rejected = [*turns[:-1], {"role": "assistant", "content": rejected}]
        return pair_of(None, turns, rejected, place)

    return convert


def ranked_in(answers: str, scores: str, *, prompt: str = "prompt") -> Convert:
    """A list of answers with a list of scores."""
    return lambda row, place: ranked_of(row[prompt], row[answers] or [], row[scores] or [], place)


def ranked_objects(name: str, answer: str, score: str, *, prompt: str, sign: int = 1) -> Convert:
    """A list of objects, each an answer with its score; ``sign`` is -1 where rank 1 is the best."""
    needed = {answer, score}

    def convert(row: Row, place: object) -> RawSample:
        items = row[name]
        if not isinstance(items, list) or not all(
            isinstance(item, Mapping) and needed <= item.keys() for item in items
        ):
            raise DataError(
                f"{place}: column {name!r} must hold objects with {answer!r} and {score!r}, got {items!r:.80}"
            )
        scores = [None if item[score] is None else sign * item[score] for item in items]
        return ranked_of(row[prompt], [item[answer] for item in items], scores, place)

    return convert


def scored_pair(prompt: str, answers: tuple[str, str], scores: tuple[str, str]) -> Convert:
    """Two answers with a score each; higher is better."""

    def convert(row: Row, place: object) -> RawSample:
        sample = pair_of(_plain_text(row[prompt]), row[answers[0]], row[answers[1]], place)
        return RawSample(**{**sample, "better": compare(row[scores[0]], row[scores[1]], place)})

    return convert


def strength_pair(prompt: str, answers: tuple[str, str], strength: str) -> Convert:
    """Two answers and one number: negative if the first is better, positive if the second is, 0 for a tie."""

    def convert(row: Row, place: object) -> RawSample:
        sample = pair_of(row[prompt], row[answers[0]], row[answers[1]], place)
        return RawSample(**{**sample, "better": compare(0, row[strength], place)})

    return convert


def shp(row: Row, place: object) -> RawSample:
    """``labels`` is 1 if the first comment is preferred."""
    sample = pair_of(row["history"], row["human_ref_A"], row["human_ref_B"], place)
    return RawSample(**{**sample, "better": flag_of(row["labels"], f"{place}: column 'labels'")})


def safe_rlhf(row: Row, place: object) -> RawSample:
    """Two responses, the indices of the better and of the safer one, and whether each is safe."""
    return RawSample(
        input=prompt_of(row["prompt"], place),
        answer=row["response_0"],
        other_answer=row["response_1"],
        better=_is_first(row, "better_response_id", place),
        safer=_is_first(row, "safer_response_id", place),
        is_safe=row["is_response_0_safe"],
        is_other_safe=row["is_response_1_safe"],
    )


def paddle(row: Row, place: object) -> RawSample:
    """``src`` (user turns) and ``tgt`` (assistant turns): texts, or lists that alternate."""
    source, target = row["src"], row["tgt"]
    if not isinstance(target, (list, tuple)):
        return answered(source, target, place)
    if len(target) == 1 and not isinstance(source, str) and len(source) == 1:
        return RawSample(input=source[0], answer=target[0])
    turns = _interleave(source, target, place)
    return RawSample(input=turns) if len(turns) % 2 else RawSample(dialogue=turns)


def paddle_ranked(row: Row, place: object) -> RawSample:
    """``src`` and ``tgt`` are the prompt; of ``response``, the one with the larger ``sort`` is better.

    A single response (KTO) is desirable if its ``sort`` is 1.
    """
    responses = [item[0] if isinstance(item, (list, tuple)) and len(item) == 1 else item for item in row["response"]]
    turns = _interleave(row["src"], row["tgt"] or [], place)
    prompt: Any = turns[0] if len(turns) == 1 else dialogue_turns(turns)
    if len(responses) == 1 and len(row["sort"]) == 1:
        liked = flag_of(row["sort"][0], f"{place}: column 'sort'")
        return RawSample(input=prompt_of(prompt, place), answer=responses[0], desirable=liked)
    return ranked_of(prompt, responses, row["sort"], place)


def verl(row: Row, place: object) -> RawSample:
    """A prompt, and the reference answer in ``reward_model['ground_truth']``."""
    truth = (row["reward_model"] or {}).get("ground_truth")
    label = truth if truth is None or isinstance(truth, str) else json.dumps(truth)
    return RawSample(input=prompt_of(row["prompt"], place), answer=label)


def arena(row: Row, place: object) -> RawSample:
    """Two conversations with the same questions, and the winner's name; every kind of tie is a tie."""
    sample = pair_of(None, row["conversation_a"], row["conversation_b"], place)
    winners = {"model_a": True, "model_b": False}
    return RawSample(**{**sample, "better": winners.get(row["winner"])})


def summaries(row: Row, place: object) -> RawSample:
    """A post with two summaries; ``choice`` is the index of the better one."""
    first, second = (item["text"].strip() for item in row["summaries"])
    return RawSample(
        input=row["info"]["post"], answer=first, other_answer=second, better=_is_first(row, "choice", place)
    )


def transcript_text(row: Row, place: object) -> RawSample:
    """``text``: a conversation between Human and Assistant; other text has no prompt and is refused."""
    text = row["text"]
    if isinstance(text, str) and is_transcript(text):
        return sample_of(read_transcript(text, place), place)
    if text is None:
        return RawSample(dialogue=None)
    raise DataError(
        f"{place}: column 'text' is plain text, which has no prompt and answer to train on; name the columns of the "
        "prompt and the answer (input_key, output_key)"
    )


def gather_answers(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Combine consecutive rows with answers to the same prompt into one row."""
    gathered = []
    numbered = list(enumerate(rows))
    for prompt, group in groupby(numbered, key=lambda item: item[1]["prompt"]):
        items = list(group)
        answers = [{"response": row["response"], "helpfulness": row["helpfulness"]} for _, row in items]
        gathered.append((items[0][0], {"prompt": prompt, "answers": answers}))
    return gathered


def _instruction(row: Row, place: object) -> Any:
    """Return instruction and input joined as text, or as turns if there is a ``history``."""
    texts = [row["instruction"], row.get("input"), row.get("context")]
    for name, text in zip(("instruction", "input", "context"), texts, strict=True):
        if text is not None and not isinstance(text, str):
            raise DataError(f"{place}: column {name!r} must be a string, got {type(text).__name__} {text!r:.60}")
    question = None if texts[0] is None else join_texts(*texts)
    before = read_turns(row["history"], f"{place}: column 'history'") if row.get("history") else []
    return [*before, *dialogue_turns([question or ""])] if before else question


def _interleave(source: Any, target: Any, place: object) -> list[Any]:
    """Return user and assistant turns, alternating."""
    sources = [source] if isinstance(source, str) else list(source)
    targets = [target] if isinstance(target, str) else list(target)
    if len(sources) - len(targets) not in (0, 1):
        raise DataError(
            f"{place}: {len(sources)} turns in 'src' but {len(targets)} in 'tgt' (allowed: equally many, or one fewer)"
        )
    turns = [turn for pair in zip(sources, targets, strict=False) for turn in pair]
    return turns + sources[len(targets) :]


def _check_agrees(prompt: Any, turns: list[dict[str, Any]], place: object) -> None:
    asked = {turn["content"].strip() for turn in turns if turn["role"] == "user"}
    if isinstance(prompt, str) and prompt.strip() not in asked:
        raise DataError(f"{place}: the prompt column {prompt!r:.60} is not one of the conversation's user turns")


def _is_texts(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and all(isinstance(turn, str) for turn in value))


def _is_first(row: Row, name: str, place: object) -> bool | None:
    value = row[name]
    if isinstance(value, bool) or value not in (0, 1, "0", "1"):
        raise DataError(f"{place}: column {name!r} is {value!r} (allowed: 0 or 1)")
    return int(value) == 0


def _plain_text(value: Any) -> Any:
    """Return the text of a question, which WebGPT stores as ``{"full_text": ...}``."""
    return value["full_text"] if isinstance(value, Mapping) and "full_text" in value else value
