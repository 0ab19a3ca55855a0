"""Convert OpenAssistant's trees of messages, or rows of single messages, to one sample per question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignment.data.raw.layouts.samples import input_of
from alignment.data.raw.layouts.turns import Message, read_turns
from alignment.records import RawSample

Row = Mapping[str, Any]


def tree_samples(row: Row, place: object) -> list[RawSample]:
    """Return the samples of one tree: the thread up to each question, with its best and worst ranked answers.

    Rank 0 is the best; without ranks only the first answer is used. Deleted messages are dropped with all replies.
    """
    root = row["prompt"]
    return [] if root is None or root.get("deleted") else list(_walk(root, [], place))


def gather_trees(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Build trees from messages that name their parents, dropping orphans; return (index of the root's row, tree)."""
    nodes = {row["message_id"]: {**row, "replies": []} for row in rows}
    roots = []
    for number, row in enumerate(rows):
        node = nodes[row["message_id"]]
        parent = nodes.get(row.get("parent_id"))
        if parent is not None:
            parent["replies"].append(node)
        elif row.get("parent_id") is None:
            roots.append((number, {"prompt": node}))
    return roots


def _walk(question: Row, before: list[Message], place: object) -> Iterator[RawSample]:
    thread = [*before, *_messages([question], place)]
    replies = [reply for reply in question.get("replies") or [] if not reply.get("deleted")]
    if not replies:
        yield RawSample(input=input_of(thread), answer=None, other_answer=None, better=None)
        return
    ranked = sorted((reply for reply in replies if reply.get("rank") is not None), key=lambda reply: reply["rank"])
    best, worst = (ranked[0], ranked[-1]) if ranked else (replies[0], replies[0])
    is_pair = best is not worst
    yield RawSample(
        input=input_of(thread),
        answer=best["text"],
        other_answer=worst["text"] if is_pair else None,
        better=True if is_pair else None,
    )
    for reply in replies:
        for follow_up in reply.get("replies") or []:
            if not follow_up.get("deleted"):
                yield from _walk(follow_up, [*thread, *_messages([reply], place)], place)


def _messages(nodes: Sequence[Row], place: object) -> list[Message]:
    return read_turns([{"role": node["role"], "content": node["text"]} for node in nodes], place)
