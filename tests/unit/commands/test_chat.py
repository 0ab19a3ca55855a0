"""Talking to a policy: what goes to stdout, what the conversation remembers, and what ends it."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from alignment.commands import chat, export
from alignment.errors import UserError
from alignment.generation.fused import fused_engine
from alignment.generation.fused.kernels import CpuKernels
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import (
    load_causal_lm,
    load_score_model,
    random_causal_lm,
    random_score_model,
    working_dtype,
)
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import Completion, TokenBatch

SHAPE = dict(
    model_type="llama",
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=40,
)


LONGROPE = {
    "model_type": "phi3",
    "original_max_position_embeddings": 9,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, repo_root):
    """A run's folder with a policy, and two reward models: with the policy's tokenizer and with another one."""
    root = tmp_path_factory.mktemp("chat")
    shipped = repo_root / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
    tokenizer, other = load_tokenizer(shipped), load_tokenizer(swap_two_words(shipped, root / "swapped"))
    (root / "config.json").write_text(json.dumps(SHAPE))
    save_model(root / "run" / "policy", random_causal_lm(root / "config.json", seed=1, tokenizer=tokenizer), tokenizer)
    (root / "config.json").write_text(json.dumps({**SHAPE, **LONGROPE}))
    save_model(root / "longrope", random_causal_lm(root / "config.json", seed=1, tokenizer=tokenizer), tokenizer)
    (root / "config.json").write_text(json.dumps(SHAPE))
    for name, own in (("reward", tokenizer), ("other", other)):
        reward = random_score_model(root / "config.json", ScoreOptions(), seed=2, tokenizer=own)
        save_model(root / name, reward, own)
    shutil.copytree(root / "reward", root / "no_pad")
    content = json.loads((root / "no_pad" / "config.json").read_text())
    (root / "no_pad" / "config.json").write_text(json.dumps(content | {"pad_token_id": None}))
    return root


def swap_two_words(source, target):
    load_tokenizer(source).save(target)
    content = json.loads((target / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"apple": 23, "tent": 12}
    (target / "tokenizer.json").write_text(json.dumps(content))
    return target


class Said(NamedTuple):
    """What the program wrote."""

    out: str
    err: str


@pytest.fixture
def ask(folders, capsys):
    """Call the program; returns what it wrote to stdout and, the lines of engine and log aside, to stderr."""

    def run(*flags, folder="run"):
        chat.main([str(folders / folder), "--max_new_tokens", "6", *flags])
        out, err = capsys.readouterr()
        lines = err.splitlines(keepends=True)
        assert sum(line.startswith("engine: fused (") for line in lines) == 1
        logged = [line for line in lines if line.startswith("[")]
        assert all(re.match(r"\[\d\d:\d\d:\d\d\] \S", line) for line in logged)
        assert len(logged) == (folder == "run") and all("reading its policy/" in line for line in logged)
        return Said(out, "".join(line for line in lines if not line.startswith(("engine: ", "["))))

    return run


def type_in(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_one_prompt_from_a_run_or_a_model_folder(ask):
    out, err = ask("--prompt", "pack apple")
    assert out.endswith("\n") and out.strip() and "score" not in err
    assert ask("--prompt", "pack apple", folder="run/policy").out == out
    others = {ask("--prompt", "pack apple", "--seed", str(seed)).out for seed in range(1, 5)}
    assert len(others | {out}) > 2
    greedy = {ask("--prompt", "pack apple", "--greedy", "--seed", str(seed)).out for seed in range(3)}
    assert len(greedy) == 1
    assert greedy == {ask("--prompt", "pack apple", "--top_k", "1").out}
    assert greedy == {ask("--prompt", "pack apple", "--top_p", "1e-6").out}
    assert greedy == {ask("--prompt", "pack apple", "--temperature", "1e-5").out}


def test_text_that_the_tokenizer_does_not_know_is_told(ask):
    assert ask("--prompt", "pack rope").err == ""
    warning = "warning: 2 of the prompt's 6 tokens stand for text that the tokenizer does not know\n"
    assert ask("--prompt", "pack zebra lion").err == warning


def test_an_answer_of_longrope_ends_at_the_old_context_unless_the_prompt_is_beyond_it(ask):
    made = fused_engine.FusedEngine.generate
    with mock.patch.object(fused_engine.FusedEngine, "generate", autospec=True, side_effect=made) as generate:
        for text in ("pack apple", "pack " * 12):
            assert ask("--prompt", text, folder="longrope").out.strip()
    assert [call.args[2].max_total_tokens for call in generate.call_args_list] == [9, 40]


def test_the_template_is_the_users_choice(ask):
    own = ask("--prompt", "pack apple", "--greedy").out
    assert ask("--prompt", "pack apple", "--greedy", "--chat_template", "tokenizer").out == own
    assert ask("--prompt", "pack apple", "--greedy", "--chat_template", "none").out != own


@pytest.mark.parametrize(
    ("name", "ids", "reason", "expected"),
    [
        ("reward", [12, 7, 2], "stop", [1, 4, 6, 12, 5, 12, 7, 2]),
        ("reward", [12, 4], "length", [1, 4, 6, 12, 5, 12, 4]),
        ("other", [12, 7, 2], "stop", [1, 4, 6, 23, 5, 23, 7, 2]),
        ("other", [12, 7], "length", [1, 4, 6, 23, 5, 23, 7]),
    ],
)
def test_the_judge_reads_the_conversation_in_its_own_tokens(folders, name, ids, reason, expected):
    judge = chat.ChatScorer(folders / name, chat.Voice(folders / "run" / "policy", None))
    completion = Completion(np.array(ids), np.zeros(len(ids), np.float32), reason)
    batch = TokenBatch.build([np.array(expected)], [np.empty(0, np.int64)])
    score = float(load_score_model(folders / name).read_end_scores(batch)[0])
    assert judge.score(["pack apple"], [1, 4, 6, 12, 5], completion) == pytest.approx(score, abs=1e-6)


def test_the_score_goes_to_stderr(ask, folders):
    out, err = ask("--prompt", "pack apple", "--reward_model", str(folders / "reward"))
    assert re.fullmatch(r"score: -?\d\.\d{4}\n", err)
    assert out == ask("--prompt", "pack apple").out


def test_several_scores_are_weighed_as_the_user_says(ask, folders, tmp_path):
    """Transformers' scores of a model with two attributes, 2 * first - second."""
    tokenizer = load_tokenizer(folders / "reward")
    options = ScoreOptions(labels=("good", "long"))
    save_model(tmp_path, random_score_model(folders / "config.json", options, seed=5, tokenizer=tokenizer), tokenizer)
    asked = ("--prompt", "pack apple", "--reward_model", str(tmp_path), "--reward_attribute_weights")
    one, other, both = (ask(*asked, *weights) for weights in (("1", "0"), ("0", "1"), ("2000", "-1000")))
    assert one.out == both.out
    scores = [float(said.err.removeprefix("score: ")) for said in (one, other, both)]
    assert scores[2] == pytest.approx(2000 * scores[0] - 1000 * scores[1], abs=0.2) and abs(scores[2]) > 1
    with pytest.raises(UserError, match=r"has 1 number\(s\), and the reward model has 2 scores: good, long"):
        ask(*asked, "1")


def test_a_conversation_line_by_line(ask, monkeypatch):
    type_in(monkeypatch, "pack apple\n\n  also map  \n/reset\npack apple\n/quit\nnever read\n")
    out, err = ask("--max_new_tokens", "4")
    first, second, third = out.splitlines()
    assert first == third and err == ""
    assert first == ask("--prompt", "pack apple", "--max_new_tokens", "4").out.strip("\n")
    assert second != ask("--prompt", "also map", "--max_new_tokens", "4").out.strip("\n"), "it remembers the first turn"


def test_end_of_input_ends_it(ask, monkeypatch):
    type_in(monkeypatch, "")
    assert ask() == ("", "")


class Remembering:
    """Answers with the number of turns it saw, and refuses a third question."""

    def __init__(self):
        self.seen = []

    def reply(self, turns):
        self.seen.append(list(turns))
        if len(turns) > 3:
            raise UserError("too long")
        return chat.Reply(f"answer {len(turns)}", None)


def test_the_history_grows_and_survives_an_error(monkeypatch, capsys):
    type_in(monkeypatch, "a\nb\nc\nd\n/reset\ne\n")
    model = Remembering()
    chat.converse(model)
    history = ["a", "answer 1", "b", "answer 3"]
    assert model.seen == [["a"], history[:3], [*history, "c"], [*history, "d"], ["e"]]
    out, err = capsys.readouterr()
    assert out == "answer 1\nanswer 3\nanswer 1\n"
    assert err.count("error: too long\n/reset starts a new conversation") == 2


def test_control_c_ends_a_conversation(ask, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "converse", interrupt)
    assert ask() == ("", "\n")


@pytest.mark.parametrize(
    ("folder", "flags", "message"),
    [
        ("run", ["--prompt", " "], "--prompt is empty"),
        ("run", ["--prompt", "a", "--temperature", "0"], "--temperature: expected a value > 0, got 0.0"),
        ("nothing", ["--prompt", "a"], "nothing"),
        ("run", ["--prompt", "a", "--reward_model", "run/policy"], "run/policy"),
        ("run", ["--prompt", "a", "--reward_model", "no_pad", "--score_before_padding"], "names no pad_token_id"),
    ],
)
def test_what_is_refused(ask, folder, flags, message, folders, monkeypatch):
    monkeypatch.chdir(folders)
    with pytest.raises(UserError, match=message):
        ask(*flags, folder=folder)


def test_the_answer_is_limited_by_what_the_model_can_hold(ask):
    assert len(ask("--prompt", "pack apple", "--max_new_tokens", "60").out.split()) <= 40


def test_the_engine_is_the_fused_one_where_it_can_run(folders, capsys, monkeypatch):
    """Both give the same answer, and the line says which one it was and why."""
    arguments = [str(folders / "run"), "--prompt", "pack apple", "--greedy", "--max_new_tokens", "8"]
    chat.main(arguments)
    fused, said = capsys.readouterr()
    assert "\nengine: fused (" in said
    monkeypatch.setattr(CpuKernels, "obstacle", lambda self, config: "no kernels here")
    chat.main(arguments)
    eager, said = capsys.readouterr()
    assert said.endswith("\nengine: eager (no kernels here)\n")
    assert eager == fused


def test_on_a_gpu_a_model_is_held_in_the_type_that_it_is_stored_in(folders, tmp_path, monkeypatch):
    narrow, wide = tmp_path / "narrow", folders / "run" / "policy"
    export.main([str(wide), str(narrow), "--dtype", "bfloat16"])
    cases = (narrow, "gpu"), (narrow, "cpu"), (wide, "gpu"), (wide, "cpu")
    assert [working_dtype(*case) for case in cases] == ["bfloat16", "float32", "float32", "float32"]
    opened = mock.Mock()
    monkeypatch.setattr(fused_engine, "FusedEngine", opened)
    chat.open_engine(load_causal_lm(wide), 30, kv_memory="1MiB", dtype="bfloat16")
    settings = opened.call_args[0][1]
    assert (settings.weight_type, settings.kv_type) == ("bfloat16", "bfloat16")


def test_the_recorded_template_is_used_and_another_one_is_told(folders, capsys, tmp_path):
    """The policy's tokenizer has a chat template, and its folder says that the classic one trained it."""
    shutil.copytree(folders / "run" / "policy", tmp_path / "policy")
    path = tmp_path / "policy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_template": {"chat_template": "none"}}))
    ask = ["--prompt", "pack apple", "--greedy", "--max_new_tokens", "8"]
    chat.main([str(folders / "run"), "--chat_template", "none", *ask])
    classic, said = capsys.readouterr()
    assert "has a chat template of its own" in said
    chat.main([str(tmp_path), *ask])
    recorded, said = capsys.readouterr()
    assert recorded == classic and "chat template of its own" not in said
    chat.main([str(tmp_path), "--chat_template", "tokenizer", *ask])
    other, said = capsys.readouterr()
    assert other != classic
    assert "was trained with the classic template (chat_template=none)" in said


def test_any_of_the_ends_of_a_folder_ends_the_answer(folders, capsys, tmp_path):
    """What transformers would stop at by generation_config.json, chat stops at too."""
    ask = ["--prompt", "pack apple", "--max_new_tokens", "12", "--seed", "3"]
    chat.main([str(folders / "run"), *ask])
    words = capsys.readouterr().out.split()
    shutil.copytree(folders / "run" / "policy", tmp_path / "policy")
    third = load_tokenizer(tmp_path / "policy").vocab[words[0]]
    (tmp_path / "policy" / "generation_config.json").write_text(json.dumps({"eos_token_id": [third]}))
    chat.main([str(tmp_path), *ask])
    assert len(words) > 1
    assert capsys.readouterr().out.split() == words[:1]


def test_a_judge_trained_elsewhere_with_pad_as_eos(folders, capsys, tmp_path):
    """Its score is read at the end, with a warning, or before it as transformers does."""
    shutil.copytree(folders / "reward", tmp_path / "judge")
    path = tmp_path / "judge" / "config.json"
    content = json.loads(path.read_text()) | {"pad_token_id": 2}
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "score_normalizer"}))
    completion = Completion(np.array([12, 7, 2]), np.zeros(3, np.float32), "stop")
    policy = chat.Voice(folders / "run" / "policy", None)
    scores = []
    for before in (False, True):
        judge = chat.ChatScorer(tmp_path / "judge", policy, before_padding=before)
        scores.append(judge.score(["pack apple"], [1, 4, 6, 12, 5], completion))
        assert ("score_before_padding" in capsys.readouterr().err) == (not before)
    for score, ids in zip(scores, ([1, 4, 6, 12, 5, 12, 7, 2], [1, 4, 6, 12, 5, 12, 7]), strict=True):
        batch = TokenBatch.build([np.array(ids)], [np.empty(0, np.int64)])
        assert score == pytest.approx(float(load_score_model(tmp_path / "judge").read_end_scores(batch)[0]), abs=1e-6)


def test_lines_that_are_not_utf8_are_refused_and_the_next_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\nrope\n"), encoding="utf-8"))
    first, second = chat.read_lines()
    with pytest.raises(UserError, match="not UTF-8"):
        chat.refuse_broken_text(first)
    chat.refuse_broken_text(second)
    assert second == "rope"


def test_the_device_is_the_users_or_paddles_own_choice(folders, monkeypatch, capsys):
    selected = []
    monkeypatch.setattr("alignment.parallel.initialise.select_device", selected.append)
    ask = [str(folders / "run"), "--prompt", "pack apple", "--max_new_tokens", "1"]
    chat.main(ask)
    chat.main([*ask, "--device", "cpu"])
    assert selected == [None, "cpu"]


def test_a_gpu_that_is_not_there_is_refused(folders):
    with pytest.raises(UserError, match="device='gpu', but this Paddle sees no GPU; use device=cpu"):
        chat.main([str(folders / "run"), "--prompt", "pack apple", "--device", "gpu"])
