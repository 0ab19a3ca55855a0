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
    ("keys", "label", "changes", "unused"),
    [
        ({"loss_type": "average"}, "RM", {"loss_type": "average"}, ""),
        ({"regularization": 0.01}, "RM", {}, ""),
        ({"regularization": 0.5, "objective": "cost"}, "RM", {}, ", regularization, objective"),
        ({"lora": True, "lora_rank": 4}, "LoRA RM", {"lora": True, "lora_dropout": 0.1}, ", lora_rank"),
        ({"lora": "false"}, "RM", {}, ", lora"),
    ],
)
def test_a_key_of_the_file_is_used_or_named(keys, label, changes, unused, monkeypatch, capsys, tmp_path):
    """A comparison that left a loss or an adapter out in silence would pass without having looked at it."""
    written = []
    monkeypatch.setattr(verify_layout, "make_models", lambda *_: None)
    monkeypatch.setattr(check, "write_arguments", lambda *given: written.append(given[-1]) or tmp_path)
    monkeypatch.setattr(check, "run_trainers", lambda *_, **__: (_ for _ in ()).throw(UserError("too small")))
    path = tmp_path / "rm.json"
    path.write_text(json.dumps({"model_name_or_path": "mine", "tensor_parallel_degree": 2, **keys}))
    assert verify_layout.main([str(path), "--trainer", "rm"]) == 1
    told = f"compared is a small run of {label}, without these keys of the file: model_name_or_path{unused}"
    assert capsys.readouterr().out.splitlines()[0] == told
    assert len(written) == 2 and all(changes.items() <= one.items() for one in written)
    assert all("objective" not in one and "regularization" not in one for one in written)


def test_an_algorithm_with_costs_gets_a_cost_model(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(verify_layout, "make_models", lambda *_: None)
    monkeypatch.setattr(check, "write_arguments", lambda *given: written.append(given[-1]) or tmp_path)
    monkeypatch.setattr(check, "run_trainers", lambda *_, **__: (_ for _ in ()).throw(UserError("too small")))
    path = tmp_path / "ppo.json"
    path.write_text(json.dumps({"actor_model_name_or_path": "a", "rl_algorithm": "ppo_lagrangian"}))
    verify_layout.main([str(path), "--tensor_parallel_degree", "2"])
    assert [one["cost_model_name_or_path"] for one in written] == ["cost", "cost"]


def _started(monkeypatch, tmp_path, keys, *argv):
    """Return the layouts that are started for a file of ``keys``, and the changes that each gets."""
    started, written = [], []
    monkeypatch.setattr(verify_layout, "make_models", lambda *_: None)
    monkeypatch.setattr(check, "write_arguments", lambda *given: written.append(given[-1]) or tmp_path)
    monkeypatch.setattr(check.References, "get", lambda self, batch_ranks, *_: started.append([batch_ranks]))

    def run(jobs, *, world_size, timeout):
        started[-1].append(world_size)
        raise UserError("not run here")

    monkeypatch.setattr(check, "run_trainers", run)
    path = tmp_path / "some.json"
    path.write_text(json.dumps(keys))
    assert verify_layout.main([str(path), *argv]) == 1
    return started, written


def test_a_file_without_a_layout_is_compared_in_the_basic_ones(monkeypatch, tmp_path, capsys):
    """In one process nothing could differ."""
    started, written = _started(monkeypatch, tmp_path, {"actor_model_name_or_path": "a"})
    assert started == [[2, 2], [1, 2], [1, 2], [2, 2], [2, 2], [2, 2], [1, 4]]
    assert [one.get("pipeline_parallel_degree") for one in written] == [None, None, 2, None, None, None, 2]
    assert "compared in DP2, TP2, PP2, Sh2 stage1" in capsys.readouterr().out


def test_a_layout_that_the_heads_do_not_allow_is_left_out_of_the_basic_ones(monkeypatch, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    heads = {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 24}
    shape = {"intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9, "max_position_embeddings": 8}
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "rms_norm_eps": 1e-5, **heads, **shape}))
    started, _ = _started(monkeypatch, tmp_path, {"actor_model_name_or_path": "model", "rl_algorithm": "grpo"})
    assert started == [[2, 2], [1, 2], [2, 2], [2, 2], [2, 2]], "DP2, PP2 and sharding"


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ({"policy": [0], "critic": [1], "reference": [2], "reward": [2]}, [1, 3]),
        ({"policy": 2, "reference": "policy", "critic": 2, "reward": "critic"}, [2, 4]),
        ({"policy": {"ranks": 2, "tensor_parallel_degree": 2}, "critic": 1}, [1, 3]),
    ],
)
def test_placement_is_compared_with_the_rows_of_the_policy_in_one_process(placement, expected, monkeypatch, tmp_path):
    started, written = _started(monkeypatch, tmp_path, {"actor_model_name_or_path": "a", "placement": placement})
    assert started == [expected] and written[0]["placement"] == placement


def test_a_preset_gives_its_conventions_and_not_its_batches(monkeypatch, tmp_path, capsys):
    keys = {"actor_model_name_or_path": "a", "preset": "safe-rlhf", "kl_coeff": 0.5, "tensor_parallel_degree": 2}
    _, written = _started(monkeypatch, tmp_path, keys)
    assert written[0]["policy_loss_reduction"] == "sequence" and written[0]["clip_placement"] == "token"
    assert written[0]["kl_coeff"] == 0.5 and "per_device_prompt_batch_size" not in written[0]
    assert "preset" not in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("key", ["rl_algorithm", "advantage_estimator"])
def test_a_file_is_recognised_by_the_key_that_names_its_algorithm(key, monkeypatch, tmp_path, capsys):
    """Its models may stand under names of other suites, which all trainers know."""
    _started(monkeypatch, tmp_path, {"pretrain": "a", key: "group_norm", "tensor_parallel_degree": 2})
    assert "TP2, GRPO: not run here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"lora": "perhaps"}, "^lora: "),
        ({"rl_algorithm": "reinforced"}, "unknown algorithm 'reinforced'"),
        ({"placement": {"critic": [0]}}, "names no ranks of the policy"),
        (
            {"placement": {"policy": [0, 1, 2], "critic": [3]}, "tensor_parallel_degree": 2},
            "no multiple of its degrees",
        ),
        ({"preset": "trll"}, "^preset='trll' .allowed: paddlenlp, trl"),
        ({"preset": "safe-rlhf", "clip_placement": "score"}, "contradicts preset=safe-rlhf"),
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
