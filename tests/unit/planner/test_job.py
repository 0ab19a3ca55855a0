"""Arguments to a job: batches, what is off, and models that are not here."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import huggingface_hub
import pytest

from alignment.architecture.layout import Layout
from alignment.errors import ArgumentError
from alignment.models.config import read_config
from alignment.planner.memory import StageMemory
from alignment.planner.models import place_models
from alignment.planner.on_policy_job import read_job
from alignment.planner.reading import read_shape
from alignment.runs.on_policy.prompts import RowPlan
from alignment.runs.on_policy.roles import RoleFolders
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from tests.unit.planner.jobs import SHAPE, make_config, make_job


@pytest.fixture
def parse(tmp_path):
    """Return a function from keys to parsed arguments, with a policy and a reward model of the small shape."""
    for name, changes in (("policy", {}), ("reward", {}), ("critic", {"num_hidden_layers": 2})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    given = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": str(tmp_path / "policy"),
        "reward_model_name_or_path": str(tmp_path / "reward"),
        "output_dir": str(tmp_path / "output"),
        "max_length": 64,
    }

    def parse(**changes):
        kept = {key: value for key, value in {**given, **changes}.items() if value is not None}
        return parse_ppo_arguments([part for key, value in kept.items() for part in (f"--{key}", str(value))])

    parse.folder = tmp_path
    return parse


def test_shapes_come_from_the_folders_and_the_critic_starts_from_the_reward_model(parse):
    job = read_job(parse(), device="gpu")
    assert job.policy == job.critic == job.reward == make_config()
    other = read_job(parse(reward_critic_model_name_or_path=parse.folder / "critic"), device="gpu")
    assert (other.critic.num_hidden_layers, other.reward.num_hidden_layers) == (2, 4)


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes the output folder of a run whose models have so many layers, and returns it."""

    def write_run(name, **layers):
        for part, count in layers.items():
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": count}))
        return str(tmp_path / name)

    return write_run


def _layers(parsed):
    job = read_job(parsed, device="cpu")
    return {role: config.num_hidden_layers for role, config in job.models.items()}


def test_the_folder_of_a_run_stands_for_the_model_of_each_role(parse, write_run):
    run, scorer = write_run("run", policy=2, value=6, reward=8), write_run("rm", reward=10)
    named = {"actor_model_name_or_path": run, "reward_model_name_or_path": scorer}
    assert _layers(parse(**named)) == {"policy": 2, "reference": 2, "reward": 10, "critic": 10}
    own = parse(**named, reward_critic_model_name_or_path=run)
    assert _layers(own) == {"policy": 2, "reference": 2, "reward": 10, "critic": 6}
    assert _layers(parse(**named, critic_init="policy"))["critic"] == 2
    assert _layers(parse(actor_model_name_or_path=run, **GRPO)) == {"policy": 2, "reference": 2, "reward": 4}


def test_the_folder_of_a_run_stands_for_a_cost_model_and_its_critic(parse, write_run):
    run, scorer = write_run("run", policy=2, value=6, cost_value=3, reward=8), write_run("rm", reward=10)
    given = {"rl_algorithm": "ppo_lagrangian", "cost_model_name_or_path": scorer}
    assert {role: _layers(parse(**given))[role] for role in ("cost", "cost_critic")} == {"cost": 10, "cost_critic": 10}
    other = _layers(parse(**given, cost_critic_model_name_or_path=run))
    assert {role: other[role] for role in ("cost", "cost_critic")} == {"cost": 10, "cost_critic": 3}


def test_the_folders_of_a_plan_are_those_of_training(parse, write_run):
    run, scorer = write_run("run", policy=2, value=6, cost_value=3, reward=8), write_run("rm", reward=10)
    given = {
        "actor_model_name_or_path": run,
        "reward_model_name_or_path": scorer,
        "rl_algorithm": "ppo_lagrangian",
        "cost_model_name_or_path": scorer,
    }
    for changes in ({}, {"reward_critic_model_name_or_path": run, "cost_critic_model_name_or_path": run}):
        parsed = parse(**given, **changes)
        folders = RoleFolders.of(SimpleNamespace(parsed=parsed))
        planned = _layers(parsed)
        for role in ("critic", "reward", "cost", "cost_critic"):
            assert planned[role] == read_config(getattr(folders, role)).num_hidden_layers
        assert planned["policy"] == read_config(folders.actor).num_hidden_layers


def test_a_run_without_the_model_of_a_role_is_named_with_where_it_was_sought(parse, write_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    scorer = write_run("rm", reward=10)
    with pytest.raises(ArgumentError, match=r"actor_model_name_or_path=.*/rm: no config.json in .*/rm or its policy/,"):
        read_job(parse(actor_model_name_or_path=scorer), device="cpu")


def test_a_reward_function_is_no_model_and_the_critic_has_to_be_named(parse):
    function = {"reward_model_name_or_path": None, "reward_function": "module:function"}
    job = read_job(parse(**function, reward_critic_model_name_or_path=parse.folder / "critic"), device="gpu")
    assert job.reward is None and job.critic.num_hidden_layers == 2


@pytest.mark.parametrize(("prompts", "samples", "micro", "accumulate"), [(16, 1, 16, 1), (4, 2, 2, 8), (8, 2, 4, 1)])
def test_rows_of_an_iteration_are_those_of_the_trainer(parse, prompts, samples, micro, accumulate):
    parsed = parse(
        per_device_prompt_batch_size=prompts,
        num_return_sequences=samples,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
    )
    plan = RowPlan.of(parsed)
    assert read_job(parsed, device="cpu").iteration_rows == plan.prompts_per_iteration * plan.samples_per_prompt


def test_rows_of_forward_passes_default_to_those_of_training(parse):
    job = read_job(parse(per_device_train_batch_size=8, per_device_value_batch_size=3), device="cpu")
    assert (job.logprob_rows, job.reward_rows, job.value_rows) == (8, 8, 3)


def test_half_precision_and_the_fused_engine_depend_on_the_device(parse):
    parsed = parse(bf16=True, fp16_opt_level="O2")
    on_gpu, on_cpu = (read_job(parsed, device=device) for device in ("gpu", "cpu"))
    assert (on_gpu.half, on_gpu.fused, on_gpu.item) == (True, True, 2)
    assert (on_cpu.half, on_cpu.fused, on_cpu.item) == (False, True, 4)


def test_choices_of_experts_are_kept_where_the_run_replays_them(parse):
    shape = json.loads((parse.folder / "policy" / "config.json").read_text())
    shape |= {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    (parse.folder / "mixture").mkdir()
    (parse.folder / "mixture" / "config.json").write_text(json.dumps(shape))
    mixture = {"actor_model_name_or_path": parse.folder / "mixture"}

    def kept(**given):
        return read_job(parse(**given), device="cpu").kept_choices

    assert (kept(**mixture), kept(**mixture, rollout_weight_type="bfloat16")) == (0, 1)
    assert kept(**mixture, use_rollout_routing_replay=True, rollout_ahead=1) == 2
    assert kept(use_rollout_routing_replay=True) == 0


def test_responses_share_a_prompt(parse):
    given = dict(per_device_prompt_batch_size=4, num_return_sequences=4, per_device_train_batch_size=16, max_dec_len=40)
    job = read_job(parse(**given), device="cpu")
    assert job.saved_tokens("policy", 16, trains=True) == job.saved_tokens("reward", 16) == 12 * 24
    assert job.saved_tokens("policy", 6) == 4 * 24
    part = read_job(parse(**given | {"per_device_train_batch_size": 8}), device="cpu")
    assert part.saved_tokens("policy", 8, trains=True) == 0 and part.saved_tokens("policy", 8) == 6 * 24
    critic = place_models(part, Layout(), 0)["critic"]
    assert (critic.one_pass(8).saved, critic.one_pass(8, learns=True).saved) == (6 * 24, 0)  # values, an update
    for changes in ({"share_prefixes": "false"}, {"use_native_ops": "false"}, {"max_dec_len": 60}):
        assert read_job(parse(**given | changes), device="cpu").saved_tokens("policy", 16) == 0


def test_passes_that_a_run_does_not_make_are_not_counted(parse):
    given = dict(per_device_prompt_batch_size=4, num_return_sequences=4, per_device_train_batch_size=16)
    saved = read_job(parse(**given), device="cpu")
    assert (saved.scored_rows("policy"), saved.scored_rows("critic"), saved.scored_rows("reference")) == (1, 0, 16)
    assert read_job(parse(**given, logprob_check_rows=5), device="cpu").scored_rows("policy") == 5
    for changes, policy, critic in (
        ({"use_rollout_logprobs": "false", "values_from_update": "false"}, 16, 16),
        ({"update_iters": 2, "on_logprob_gap": "recompute"}, 16, 16),
        ({"per_device_train_batch_size": 8}, 1, 16),
    ):
        job = read_job(parse(**given | changes), device="cpu")
        assert (job.scored_rows("policy"), job.scored_rows("critic")) == (policy, critic), changes
    names = {m.name for m in StageMemory(saved, Layout(), 0).moments("score")}
    assert "critic forward" not in names and "policy forward" in names


def test_comparisons_share_the_prompt_and_the_response_they_begin_with():
    job = make_job(pairwise=frozenset({"reward"}), group_size=4, shares=True, native=True, length=64, response=16)
    # All 12 ordered pairs of four responses: 12 x (48 + 16 + 16) tokens become 48 + 4 x 16 + 12 x 16.
    assert 12 * 80 - job.saved_tokens("reward", 12) == 48 + 4 * 16 + 12 * 16
    assert 24 * 80 - job.saved_tokens("reward", 24) == 2 * (48 + 4 * 16 + 12 * 16)
    assert job.saved_tokens("reward", 2) == 48 + 16 and job.saved_tokens("reward", 1) == 0
    short = dataclasses.replace(job, length=24, response=22)
    assert short.saved_tokens("reward", 12) == 8 * (2 + 22), "prompts are too short to be worth it, responses are not"


def test_compiled_operators_are_the_default_of_a_cpu(parse):
    parsed = parse()
    assert read_job(parsed, device="cpu").native and not read_job(parsed, device="gpu").native
    assert not read_job(parse(use_native_ops="false"), device="cpu").native


def test_recomputing_and_the_supervised_loss_count_when_they_are_on(parse):
    off = read_job(parse(recompute_granularity="full_attn", ptx_coeff=1.0), device="cpu")
    assert (off.recompute, off.critic_recompute, off.with_ptx) == ("", "", False)
    on = read_job(
        parse(
            recompute=True, critic_recompute_granularity="core_attn", ptx_coeff=1.0, ptx_datasets="packing-sft/train"
        ),
        device="cpu",
    )
    assert (on.recompute, on.critic_recompute, on.with_ptx) == ("full", "core_attn", True)
    assert read_job(parse(recompute=True, critic_recompute=False), device="cpu").critic_recompute == ""


def test_a_response_leaves_room_for_a_prompt(parse):
    assert read_job(parse(max_dec_len=16), device="cpu").prompt == 48
    assert read_job(parse(), device="cpu").prompt == 1


def test_a_model_that_is_nowhere_is_one_message_with_the_way_out(parse, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ArgumentError, match=r"actor_model_name_or_path=org/absent: no config.json in .*org/absent"):
        read_job(parse(actor_model_name_or_path="org/absent"), device="cpu")


GRPO = {"rl_algorithm": "grpo", "num_return_sequences": 4}


def test_an_algorithm_without_critic_has_none_in_its_job(parse):
    job = read_job(parse(**GRPO, recompute=True), device="cpu")
    assert job.critic is None and list(job.models) == ["policy", "reference", "reward"]
    assert job.recompute == "full" and job.iteration_rows == 16 * 4


@pytest.mark.parametrize(
    ("given", "has_reference"),
    [({}, True), ({"kl_loss_coeff": 0}, False), ({"kl_loss_coeff": 0, "kl_coeff": 0.1}, True)],
)
def test_the_reference_counts_where_a_kl_has_weight(parse, given, has_reference):
    job = read_job(parse(**GRPO, **given), device="cpu")
    assert job.has_reference == has_reference == ("reference" in job.models)


def test_ppo_has_its_reference_without_a_penalty_too(parse):
    assert read_job(parse(kl_coeff=0), device="cpu").has_reference


def test_a_function_gives_the_rewards_and_no_critic_has_to_be_named(parse):
    function = {"reward_model_name_or_path": None, "reward_function": "module:function"}
    assert list(read_job(parse(**GRPO, **function), device="gpu").models) == ["policy", "reference"]


def test_the_hub_is_asked_once_for_a_model_that_two_keys_name(monkeypatch):
    asked = []

    def fail(name, file):
        asked.append((name, file))
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    for key in ("model_name_or_path", "ref_model_name_or_path"):
        with pytest.raises(ArgumentError, match=f"{key}=nobody/asked-once: no config.json"):
            read_shape("nobody/asked-once", key)
    assert asked == [("nobody/asked-once", "config.json")]
