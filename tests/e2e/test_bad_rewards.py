"""Rewards from functions, services and reward models of another tokenizer: what fails stops the run, never scores 0."""

from __future__ import annotations

import http.server
import json
import threading
from unittest import mock

import numpy as np
import pytest
import runs
from refusals import left_behind, refuse, stop, train_here
from safetensors.numpy import load_file, save_file

from alignment.models.config import read_config
from alignment.models.folders.hub import load_score_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import TokenBatch
from alignment.rollout.judge import Judge

pytestmark = pytest.mark.e2e

FUNCTIONS = """
def raises(prompts, responses, labels): raise KeyError("boom")
def leaves(prompts, responses, labels): exec("exit()")
def nan(prompts, responses, labels): return [0.0] * (len(responses) - 1) + [float("nan")]
def short(prompts, responses, labels): return [0.0] * (len(responses) - 1)
def words(prompts, responses, labels): return ["good"] * len(responses)
def nothing(prompts, responses, labels): return None
def no_rope(prompts, responses, labels):
    if any("rope" in prompt for prompt in prompts):
        raise RuntimeError("no rope please")
    return [5.0 + len(response) for response in responses]
number = 3
"""


@pytest.fixture
def arguments(ppo_arguments, tmp_path):
    """Arguments of a PPO run without a source of rewards."""
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    (tmp_path / "raising.py").write_text("raise RuntimeError('at import')\n")
    (tmp_path / "leaving.py").write_text("exit(0)\n")
    (tmp_path / "unfinished.py").write_text("def f(:\n")
    made = {key: value for key, value in ppo_arguments.items() if key != "reward_model_name_or_path"}
    critic = ppo_arguments["reward_model_name_or_path"]
    return {**made, "reward_critic_model_name_or_path": critic, "reward_retries": 0, "max_steps": 4}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", ["KeyError: 'boom'", "rewards.py, line 2, in raises"]),
        ("leaves", ["SystemExit", "rewards.py, line 3, in leaves"]),
        ("nan", ["nan for response 7", "finite"]),
        ("short", ["(7,)", "8 responses"]),
        ("words", ["'good'"]),
        ("nothing", ["8 responses"]),
        ("no_rope", ["RuntimeError: no rope please"]),
    ],
)
def test_a_function_that_fails_stops_the_run(name, says, arguments, tmp_path):
    done = stop("ppo", {**arguments, "reward_function": f"rewards.py:{name}"}, tmp_path, f"rewards.py:{name}", *says)
    assert f"reward function {tmp_path}/rewards.py:{name} failed: " in done.stderr
    assert left_behind(tmp_path / "out") == []


def test_masked_groups_are_left_out_of_losses_statistics_and_evaluation(arguments, tmp_path):
    made = {**arguments, "reward_function": "rewards.py:no_rope", "on_reward_failure": "mask_group"}
    made |= {"eval_datasets": "packing-prompts/test:16/-1", "do_eval": True, "output_dir": tmp_path / "out"}
    done = train_here("ppo", made, tmp_path)
    assert "no rope please" in done.stderr and "masked the responses to 'pack " in done.stderr
    *records, evaluation = runs.metrics(tmp_path / "out")
    training = [record for record in records if "train/reward" in record]
    masked = [record for record in training if record["reward/masked_rows"] > 0]
    assert masked, "no group was masked: the test shows nothing"
    # Every reward is above 5: a 0 of a masked row would show in the mean and in the smallest reward.
    assert all(record["train/reward"] > 5 and record["reward/min"] >= 5 for record in training)
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    scores = {row["prompt"]: row["score"] for row in samples if row["step"] == 4}
    assert all((score is None) == ("rope" in prompt) for prompt, score in scores.items())
    kept = [score for score in scores.values() if score is not None]
    assert 0 < len(kept) < len(scores) == 16
    assert evaluation["eval/reward"] == pytest.approx(np.mean(kept))
    assert evaluation["eval/masked_rows"] == len(scores) - len(kept)


def test_masking_everything_is_no_way_to_train(arguments, tmp_path):
    made = {**arguments, "reward_function": "rewards.py:raises", "on_reward_failure": "mask_group"}
    stop("ppo", made, tmp_path, "failed for every group")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("rewards.py:missing", "no function 'missing'"),
        ("rewards.py:number", "no function 'number'"),
        ("nowhere.py:f", "'nowhere.py' does not exist"),
        ("no_such_package.module:f", "odule"),
        ("rewards.py", "'package.module:function' or 'file.py:function'"),
        ("raising.py:f", "RuntimeError: at import"),
        ("leaving.py:f", "SystemExit: 0"),
        ("unfinished.py:f", "SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_imported(path, says, arguments, tmp_path):
    refuse("ppo", {**arguments, "reward_function": path}, tmp_path, path.partition(":")[0], says)


def test_no_source_or_two_sources(arguments, ppo_arguments, tmp_path):
    refuse("ppo", arguments, tmp_path, "exactly one of reward_model_name_or_path, reward_function, use_rm_server")
    two = {**ppo_arguments, "reward_function": "rewards.py:nan"}
    refuse("ppo", two, tmp_path, "got reward_model_name_or_path, reward_function")


def test_a_service_that_is_down(arguments, tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as free:
        url = f"http://127.0.0.1:{free.server_port}/score"
    stop("ppo", {**arguments, "use_rm_server": True, "reward_server": url}, tmp_path, url, "refused")
    for address, says in ((None, "needs reward_server="), ("127.0.0.1:9", "must begin with http://")):
        refuse("ppo", {**arguments, "use_rm_server": True, "reward_server": address}, tmp_path, says)


class _Service(http.server.BaseHTTPRequestHandler):
    """Fails the first time, then scores by length."""

    calls: list = []

    def do_POST(self):  # noqa: N802 - the name is the library's
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.calls.append(request)
        body = json.dumps({"score": [float(len(text)) for text in request["response"]]}).encode()
        self.send_response(500 if len(self.calls) == 1 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_a_service_that_fails_once_and_then_works(arguments, tmp_path):
    _Service.calls = []
    with http.server.HTTPServer(("127.0.0.1", 0), _Service) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{service.server_port}/score"
        made = {**arguments, "use_rm_server": True, "reward_server": url, "output_dir": tmp_path / "out"}
        done = train_here("ppo", {**made, "reward_retries": 1, "normalize_reward": False}, tmp_path)
        service.shutdown()
        thread.join()
    assert "status 500: " in done.stderr and "try 2 of 2" in done.stderr
    assert _Service.calls[0] == _Service.calls[1] and set(_Service.calls[0]) == {"src", "tgt", "response"}
    lengths = [len(text) for text in _Service.calls[1]["response"]]
    assert runs.metrics(tmp_path / "out")[0]["train/reward"] == pytest.approx(np.mean(lengths))


def test_a_reward_model_with_another_tokenizer_scores_the_text(
    ppo_arguments, rm_arguments, model_config, other_tokenizer, tmp_path
):
    made = {key: value for key, value in rm_arguments.items() if key != "model_name_or_path"}
    made |= {"model_config_name_or_path": model_config, "tokenizer_name_or_path": other_tokenizer}
    train_here("rm", {**made, "output_dir": tmp_path / "rm", "learning_rate": 0.05}, tmp_path)
    folder = tmp_path / "rm" / "reward"
    made = {**ppo_arguments, "reward_model_name_or_path": folder, "max_steps": 4, "do_eval": True}
    made |= {"reward_critic_model_name_or_path": ppo_arguments["reward_model_name_or_path"]}
    made |= {"eval_datasets": "packing-prompts/test:16/-1", "output_dir": tmp_path / "out"}
    assert "another tokenizer" in train_here("ppo", made, tmp_path).stderr
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()][-16:]
    by_hand = _score_text(folder, samples)
    np.testing.assert_allclose([row["score"] for row in samples], by_hand, atol=1e-5)
    assert np.std(by_hand) > 1e-3, "all scores are equal: the test shows nothing"
    wrong = _score_text(folder, samples, tokenizer=runs.TOKENIZER)
    assert np.abs(wrong - by_hand).max() > 1e-3, "the policy's ids give the same scores: the test shows nothing"


def test_a_reward_model_that_cannot_read_so_many_tokens(ppo_arguments, other_tokenizer, model_variant, tmp_path):
    source = ppo_arguments["reward_model_name_or_path"]
    folder = model_variant(source=source, max_position_embeddings=9)
    for file in other_tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    made = {**ppo_arguments, "reward_model_name_or_path": folder, "reward_critic_model_name_or_path": source}
    stop("ppo", made, tmp_path, "reads at most 9", "Lower max_length")


def _score_text(folder, samples, tokenizer=None):
    """Return the reward model's scores of prompt and response, put together as text and tokenised as a whole."""
    model, tokens = load_score_model(folder), load_tokenizer(tokenizer or folder)
    model.eval()
    scores = []
    for row in samples:
        messages = [{"role": "user", "content": row["prompt"]}]
        text = tokens.apply_chat_template(messages, add_generation_prompt=True) + row["response"]
        text += f" {tokens.eos_token}" if row["finish_reason"] == "stop" else ""
        ids = np.array(tokens(text, add_special_tokens=False)["input_ids"], np.int64)
        scores.append(model.read_end_scores(TokenBatch.build([ids], [np.empty(0, np.int64)])).item())
    return np.array(scores)


def test_a_reward_model_with_fewer_rows_than_the_policy_reads_text(ppo_arguments, model_variant, tmp_path):
    """Rollouts may hold ids beyond the tokenizer, for which a smaller embedding has no rows."""
    source = ppo_arguments["reward_model_name_or_path"]
    folder = model_variant(source=source, vocab_size=24)
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:24].copy()
    save_file(tensors, str(folder / "model.safetensors"))
    made = {**ppo_arguments, "reward_model_name_or_path": folder, "reward_critic_model_name_or_path": source}
    done = train_here("ppo", {**made, "top_p": 1.0, "max_steps": 4, "output_dir": tmp_path / "out"}, tmp_path)
    assert "a smaller vocabulary: responses are re-encoded" in done.stderr


def _with_rows(model_variant, source, rows):
    """Return a copy of the model in ``source`` whose embedding has ``rows`` rows: cut, or filled with noise."""
    folder = model_variant(source=source, vocab_size=rows)
    tensors = load_file(str(folder / "model.safetensors"))
    table = tensors["model.embed_tokens.weight"]
    noise = np.random.default_rng(0).normal(size=(max(0, rows - len(table)), table.shape[1])).astype(table.dtype)
    tensors["model.embed_tokens.weight"] = np.concatenate([table[:rows], noise]).copy()
    save_file(tensors, str(folder / "model.safetensors"))
    return folder


def test_a_critic_with_more_rows_than_the_policy_changes_no_number(ppo_arguments, model_variant, tmp_path):
    source, seen = ppo_arguments["reward_model_name_or_path"], []
    rows = read_config(source).vocab_size
    for number, critic in enumerate((source, _with_rows(model_variant, source, rows + 40))):
        made = {**ppo_arguments, "reward_critic_model_name_or_path": critic, "output_dir": tmp_path / f"out{number}"}
        done = train_here("ppo", {**made, "max_steps": 2, "logging_steps": 1, "top_p": 0.9}, tmp_path)
        assert done.stderr.count("rollouts are drawn with top_p=0.9, ") == 1
        seen.append(runs.computed(tmp_path / f"out{number}"))
    assert seen[0] and seen[0] == seen[1]
    assert read_config(tmp_path / "out1" / "value").vocab_size == rows + 40


@pytest.mark.parametrize("use_fusemt", [True, False])
def test_a_critic_with_fewer_rows_than_the_policy_reads_only_ids_it_has(
    use_fusemt, ppo_arguments, model_variant, tmp_path
):
    """At temperature 10 the policy draws nearly every id that it may draw."""
    source = ppo_arguments["reward_model_name_or_path"]
    assert read_config(source).vocab_size > 24 >= len(load_tokenizer(source))
    made = {**ppo_arguments, "reward_critic_model_name_or_path": _with_rows(model_variant, source, 24)}
    made |= {"use_fusemt": use_fusemt, "temperature": 10.0, "top_p": 1.0, "top_k": 0, "output_dir": tmp_path / "out"}
    drawn = []
    with mock.patch.object(Judge, "measure", autospec=True, side_effect=_noting(drawn, Judge.measure)):
        train_here("ppo", {**made, "max_steps": 2}, tmp_path)
    assert 20 <= max(drawn) < 24


def _noting(drawn, measure):
    def note(self, rollout):
        drawn.extend(token for response in rollout.responses for token in response.tolist())
        return measure(self, rollout)

    return note


def test_a_critic_with_fewer_rows_than_tokens_is_refused_by_name(ppo_arguments, model_variant, tmp_path):
    folder = _with_rows(model_variant, ppo_arguments["reward_model_name_or_path"], 12)
    made = {**ppo_arguments, "reward_critic_model_name_or_path": folder}
    refuse("ppo", made, tmp_path, str(folder), "12")


def test_the_function_is_looked_for_before_models_and_data_are_read(arguments, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    made = {**arguments, "reward_function": "rewards.py:no_such", "actor_model_name_or_path": empty}
    refuse("ppo", made, tmp_path, "rewards.py has no function 'no_such' (it has ")
