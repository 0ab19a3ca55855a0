"""Text of an answer that grows: only what is certain is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.generation.live import Growth
from alignment.serve.policy.texts import AnswerText, token_bytes

TOKENS = [b"one ", b"\xe2", b"\x82", b"\xac", b" EN", b"D", b"x"]


def decode(ids):
    return b"".join(TOKENS[i] for i in ids).decode("utf-8", "replace")


def grow(answer, ids, *, whole=False):
    pieces = [ids] if whole else [[token] for token in ids]
    reasons = [None] * (len(pieces) - 1) + ["length"]
    return [answer.add(Growth(None, 0, p, [0.5] * len(p), (), r)) for p, r in zip(pieces, reasons, strict=True)]


def test_an_unfinished_character_waits():
    answer = AnswerText(decode, (), is_streamed=True)
    assert grow(answer, [0, 1, 2, 3, 6]) == ["one ", "", "", "\u20ac", "x"]
    assert answer.finish_reason == "length" and answer.logprobs == [0.5] * 5


def test_a_character_that_stays_unfinished_is_told_at_the_end():
    assert grow(AnswerText(decode, (), is_streamed=True), [0, 1]) == ["one ", "\ufffd"]


def test_the_start_of_a_stop_string_waits():
    answer = AnswerText(decode, ["END", "zz"], is_streamed=True)
    assert grow(answer, [0, 4, 6, 4, 5, 6]) == ["one ", " ", "ENx", " ", "", ""]
    assert answer.text == "one  ENx " and answer.finish_reason == "stop" and answer.tokens == [0, 4, 6, 4, 5]


def test_the_start_of_a_stop_string_is_told_at_the_end():
    assert grow(AnswerText(decode, ["END"], is_streamed=True), [0, 4]) == ["one ", " EN"]


@pytest.mark.parametrize("stops", [(), ("END",)])
def test_whole_answers(stops):
    answer = AnswerText(decode, stops, is_streamed=False)
    [text] = grow(answer, [0, 4, 5, 6], whole=True)
    assert text == answer.text == ("one  " if stops else "one  ENDx")
    assert len(answer.tokens) == (3 if stops else 4) and answer.finish_reason == ("stop" if stops else "length")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("\u0120a", " a", [32, 97]),
        ("\u00e2", "\ufffd", [0xE2]),
        ("<0xE2>", "\ufffd", [0xE2]),
        ("\u4e00", "\ufffd", None),
    ],
)
def test_the_bytes_of_a_part_of_a_character(name, text, wanted):
    assert token_bytes(SimpleNamespace(id_to_token=lambda _: name), 5, text) == wanted
