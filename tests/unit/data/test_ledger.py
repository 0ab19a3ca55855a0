"""The account of rows that were not used as they were."""

from __future__ import annotations

import json

import pytest

from alignment.data import ledger
from alignment.data.ledger import Ledger, LedgerRow


def filled() -> Ledger:
    account = Ledger()
    for index in (4, 9, 9, 1, 7):
        account.add("a", ledger.EMPTY_ANSWER, index)
    account.add("b", ledger.TRUNCATED_LEFT, 0)
    account.add_size("a", selected=10, used=5)
    return account


def test_rows_totals_and_examples():
    account = filled()
    assert account.rows() == [
        LedgerRow("a", "empty_answer", "dropped", 5, (4, 9, 1)),
        LedgerRow("b", "truncated_left", "kept", 1, (0,)),
    ]
    assert (account.total(ledger.EMPTY_ANSWER), account.total(ledger.TIED_PAIR), account.total()) == (5, 0, 6)
    assert account.summary() == "empty_answer 5, truncated_left 1"
    assert Ledger().summary() == "nothing"


def test_a_fourth_example_is_counted_only_and_sizes_add_up():
    account = filled()
    account.add("a", ledger.EMPTY_ANSWER, 33)
    account.add_size("a", selected=2, used=1)
    assert account.rows()[0] == LedgerRow("a", "empty_answer", "dropped", 6, (4, 9, 1))
    assert dict(account.sizes())["a"] == {"selected": 12, "used": 6}


def test_as_dict_is_plain_json():
    data = json.loads(json.dumps(filled().as_dict()))
    assert data["datasets"] == {"a": {"selected": 10, "used": 5}}
    assert data["rows"][1] == {
        "dataset": "b", "reason": "truncated_left", "effect": "kept", "count": 1, "examples": [0],
    }  # fmt: skip


def test_reasons_are_a_closed_set():
    with pytest.raises(AssertionError, match="lost"):
        Ledger().add("a", "lost", 1)
