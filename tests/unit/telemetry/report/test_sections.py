"""Samples, ledger and arguments as the page shows them."""

from __future__ import annotations

import pytest

from alignment.telemetry.report.sections import (
    NOT_SET,
    argument_differences,
    argument_rows,
    comparison,
    ledger_rows,
    reward_source,
)

LEDGER = {
    "train": {
        "datasets": {"alpaca": {"selected": 52002, "used": 51990}},
        "rows": [
            {"dataset": "alpaca", "reason": "empty_answer", "effect": "dropped", "count": 2, "examples": [7, 9]},
            {"dataset": "alpaca", "reason": "truncated_left", "effect": "kept", "count": 10, "examples": []},
        ],
    },
    "eval": {"datasets": {"mine": {"selected": 3, "used": 3}}, "rows": []},
}


@pytest.mark.parametrize(("count", "best", "others", "worst"), [(1, 1, 0, 0), (2, 1, 0, 1), (5, 3, 0, 2), (8, 3, 2, 3)])
def test_each_sample_is_shown_once_ranked(count, best, others, worst):
    rows = [{"step": 1, "prompt": str(i), "response": "", "score": float(i)} for i in range(count)]
    result = comparison({1: rows})
    assert (len(result.best), len(result.others), len(result.worst)) == (best, others, worst)
    shown = [row.last["score"] for row in (*result.best, *result.others, *result.worst)]
    assert shown == sorted((row["score"] for row in rows), reverse=True)


def test_samples_of_both_evaluations_meet_by_prompt():
    first = [{"prompt": "b", "response": "old b", "score": 1.0}, {"prompt": "b", "response": "other b", "score": 1.0}]
    last = [{"prompt": "a", "response": "new a", "score": None}, {"prompt": "b", "response": "new b", "score": 0.0}]
    result = comparison({0: first, 5: [{"prompt": "a"}], 9: last})
    assert (result.first_step, result.last_step) == (0, 9)
    (best,) = result.best
    assert (best.first["response"], best.last["response"]) == ("old b", "new b")
    assert result.worst[0].first is None
    pairs = comparison({0: first, 9: first[:1] + first})
    assert [row.first and row.first["response"] for row in (*pairs.best, *pairs.worst)] == ["old b", "other b", None]
    assert comparison({}) is None


def test_ledger_has_a_row_for_each_role_and_dataset():
    assert ledger_rows(LEDGER) == [
        ("train", "alpaca", "52,002", "51,990", ["empty_answer: 2 dropped (row 7, 9)", "truncated_left: 10 kept"]),
        ("eval", "mine", "3", "3", []),
    ]
    assert ledger_rows(None) == []
    warned = {"eval": {**LEDGER["eval"], "warnings": ["the same prompts"]}}
    assert ledger_rows(warned)[1:] == [("eval", "all", "", "", ["the same prompts"])]


def test_arguments_flat_or_grouped():
    flat = {"seed": {"value": 10000, "origin": "default"}}
    assert argument_rows(flat) == [("seed", "10000", "default")]
    assert argument_rows({"training": flat, "x": 1}) == [("seed", "10000", "default"), ("x", "1", "")]
    assert argument_rows(None) == []


def test_arguments_that_differ_between_runs():
    one = {"seed": {"value": 1, "origin": "file"}, "ppo": {"kl_coeff": {"value": 0.1, "origin": "file"}}, "same": 3}
    other = {"seed": {"value": 2, "origin": "default"}, "same": 3, "new": "x"}
    assert argument_differences([one, other]) == [
        ("seed", ["1", "2"]), ("kl_coeff", ["0.1", NOT_SET]), ("new", [NOT_SET, "x"]),
    ]  # fmt: skip
    assert argument_differences([one, one]) == []
    assert argument_differences([None, {"a": 1}]) == [("a", ["(not given)", "1"])]


def test_arguments_are_spelled_as_in_a_json_file():
    values = {"a": None, "b": True, "c": 1e-5, "d": "text", "e": "null", "f": ["x", 1], "g": "", "h": "10"}
    spelled = ["null", "true", "1e-05", "text", '"null"', '["x", 1]', "", '"10"']
    assert [value for _, value, _ in argument_rows(values)] == spelled
    assert argument_differences([{"a": None}, {"a": "null"}]) == [("a", ["null", '"null"'])]


@pytest.mark.parametrize("key", ["output_dir", "resume_from_checkpoint", "overwrite_output_dir", "logging_dir"])
def test_keys_of_a_start_are_no_difference_between_runs(key):
    assert argument_differences([{key: "a", "seed": 1}, {key: "b", "seed": 2}]) == [("seed", ["1", "2"])]


def test_the_reward_source_is_what_is_given():
    nothing = {"reward_model_name_or_path": None, "reward_function": None, "use_rm_server": False}
    assert reward_source({**nothing, "seed": 1}) == reward_source({}) == reward_source(None) == ()
    assert reward_source({**nothing, "reward_function": "f.py:f"}) == (("reward_function", "f.py:f"),)
    assert reward_source({**nothing, "use_rm_server": True, "reward_server": "http://a/b"}) == (
        ("use_rm_server", "true"), ("reward_server", "http://a/b"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "ledger",
    [3, "text", [1], {"train": None}, {"train": {}}, {"train": {"datasets": {"d": 3}, "rows": []}},
     {"train": {"datasets": {}, "rows": {"a": 1}}}, {"train": {"datasets": {}, "rows": [{"dataset": "d"}]}},
     {"train": {"datasets": {"d": {"selected": "many"}}, "rows": []}}],
)  # fmt: skip
def test_a_ledger_of_another_form_is_left_out_with_a_line(ledger, caplog):
    assert ledger_rows(ledger) == []
    assert caplog.messages == ["ledger.json is left out of the report: it has not the form that a run writes"]
