"""``verify_layout`` when a layout cannot be compared: the table names how it ended and goes on."""

from __future__ import annotations

import json

import pytest

from alignment.commands import verify as verify_layout
from alignment.errors import ProcessError, UserError
from alignment.parity import check
from alignment.parity.subjects import SUBJECTS, Subject

DEATH = ProcessError("train_all in 2 processes failed with exit status 1:\n[rank 1] was ended by SIGILL (...)")


@pytest.mark.parametrize(("error", "word"), [(DEATH, "FAILED"), (UserError("vocab of 3"), "refused")])
def test_what_dies_and_what_is_refused_are_told_apart(error, word, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(verify_layout, "make_models", lambda *_: None)
    layouts = {name: verify_layout.LAYOUTS[name] for name in list(verify_layout.LAYOUTS)[:2]}
    monkeypatch.setattr(verify_layout, "LAYOUTS", layouts)
    asked = []

    def fail(jobs, *, world_size, timeout):
        asked.append(world_size)
        raise error

    monkeypatch.setattr(check, "run_trainers", fail)
    monkeypatch.setattr(check, "write_arguments", lambda *_: tmp_path)
    assert verify_layout.main(["--table"]) == 1
    printed = capsys.readouterr().out
    assert printed.count(word) == 2 * len(SUBJECTS) and str(error) in printed
    assert len(asked) == 2, "the second layout is tried after the first has failed"


@pytest.mark.parametrize(
    ("keys", "label"),
    [({}, "PPO"), ({"rl_algorithm": "ppo"}, "PPO"), ({"rl_algorithm": "grpo", "num_return_sequences": 2}, "GRPO")],
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_is_called_by_its_algorithm(keys, label, suffix, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(verify_layout, "make_models", lambda *_: None)
    monkeypatch.setattr(check, "write_arguments", lambda *_: tmp_path)
    monkeypatch.setattr(check, "run_trainers", lambda *_, **__: (_ for _ in ()).throw(UserError("too small")))
    path = tmp_path / f"ppo.{suffix}"
    path.write_text(json.dumps({"//": "a remark", "actor_model_name_or_path": "a", "sharding": "stage1", **keys}))
    assert verify_layout.main([str(path), "--tensor_parallel_degree", "2"]) == 1
    printed = capsys.readouterr().out
    assert f"TP2, {label}: too small" in printed and f" {label} " in printed


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"rl_algorithm": "reinforce"}, "unknown algorithm 'reinforce'"),
        ({"tensor_parallel_degree": "two"}, "'two'"),
        ({"tensor_parallel_degree": 3}, "^tensor_parallel_degree=3 does not divide the model's 8 attention heads"),
    ],
)
def test_a_file_of_wrong_values_is_refused(keys, says, tmp_path):
    path = tmp_path / "ppo.json"
    path.write_text(json.dumps({"actor_model_name_or_path": "a", **keys}))
    with pytest.raises(UserError, match=says):
        verify_layout.main([str(path)])


def test_the_table_goes_between_the_marks_or_is_refused_before_any_work(tmp_path):
    page = tmp_path / "parity.md"
    page.write_text("no marks")
    with pytest.raises(UserError, match="needs lines"):
        verify_layout.main(["--table", "--write", str(page)])
    result = verify_layout.Result("tp2", 2, Subject("GRPO", "ppo"), UserError("x"))
    for between in ("", "old\ntable\n"):
        page.write_text(f"above\n<!-- parity -->\n{between}<!-- /parity -->\nbelow\n")
        verify_layout._write_markdown(page, [result])
        lines = page.read_text().splitlines()
        assert lines[:2] == ["above", "<!-- parity -->"] and lines[-2:] == ["<!-- /parity -->", "below"]
        assert [line.split("|")[3].strip() for line in lines[2:-2]] == ["trainer", "---", "GRPO"]
