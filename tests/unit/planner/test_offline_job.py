"""Runs on a dataset as jobs: which models they hold, the rows of a pair, and bytes that can be counted by hand."""

from __future__ import annotations

import json

import pytest

from alignment.architecture.layout import Layout
from alignment.errors import ArgumentError
from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.planner.counts.shapes import model_elements
from alignment.planner.machine import Machine
from alignment.planner.memory import phase_memory
from alignment.planner.messages import update_bytes
from alignment.planner.models import place_models
from alignment.planner.offline_job import read_offline_job
from alignment.planner.search import layout_problems, search
from alignment.planner.update import update_moments
from alignment.trainers.registered import TRAINERS
from tests.unit.planner.jobs import SHAPE, make_config

OFFLINE = [name for name in TRAINERS if not TRAINERS[name].is_on_policy]
POLICY = model_elements(make_config(), "causal")
SCORER = model_elements(make_config(), "score")
MATRICES = 4 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 172) + 2 * 1003 * 64
"""Of the small shape: queries, keys, values and output, three of the feed-forward block; embedding and head."""
NORMS = (2 * 4 + 1) * 64
FLOAT = 4


@pytest.fixture
def job_of(tmp_path):
    """Return a function from a trainer and keys to its job, with a model of the small shape and one of two layers."""
    layers = {"model": 4, "other": 2, "tall": 6, "run/policy": 4}
    for name, changes in ((name, {"num_hidden_layers": count}) for name, count in layers.items()):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    given = {
        "train_datasets": "packing-sft/train",
        "model_name_or_path": str(tmp_path / "model"),
        "output_dir": str(tmp_path / "output"),
        "max_length": 64,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 3,
    }

    def job_of(trainer, *, device="gpu", prompt=1, **changes):
        taught = {"teacher_model_name_or_path": tmp_path / "tall"} if trainer == "kd" else {}
        kept = {key: value for key, value in {**given, **taught, **changes}.items() if value is not None}
        argv = [part for key, value in kept.items() for part in (f"--{key}", str(value))]
        return read_offline_job(trainer, TRAINERS[trainer].parse(argv), device=device, prompt=prompt)

    job_of.folder = tmp_path
    return job_of


def on_device(moment):
    return moment.on_device


def test_rows_of_a_sample_share_a_prompt_of_stated_length(job_of):
    alone, shared = job_of("dpo", device="cpu"), job_of("dpo", device="cpu", prompt=32)
    assert (alone.response, shared.response) == (63, 32)
    for role in ("policy", "reference"):
        assert alone.saved_tokens(role, 8, trains=role == "policy") == 0
        assert shared.saved_tokens(role, 8, trains=role == "policy") == 4 * 32
    assert job_of("rm", device="cpu", prompt=32).saved_tokens("reward", 8, trains=True) == 4 * 32
    kto = job_of("kto", device="cpu", prompt=32)
    assert (kto.saved_tokens("policy", 4, trains=True), kto.saved_tokens("reference", 4)) == (0, 2 * 32)
    assert job_of("pairwise", device="cpu").saved_tokens("policy", 8, trains=True) == 0
    assert job_of("dpo", device="cpu", prompt=32, share_prefixes=False).saved_tokens("policy", 8) == 0
    packed = {"packing_samples": True, "max_tokens_per_batch": 240}
    assert [job_of("dpo", device="cpu", prompt=prompt, **packed).rows_per_batch for prompt in (1, 32)] == [4, 6]
    assert job_of("dpo", device="gpu", prompt=32, **packed).rows_per_batch == 4, "no row shares tokens on a GPU"
    dropping = {**packed, "lora": True, "lora_dropout": 0.1}
    assert job_of("dpo", device="cpu", prompt=32, **dropping).rows_per_batch == 4, "nor with dropout"


def test_the_reference_reads_several_micro_batches_at_once(job_of):
    assert (job_of("dpo").joined, job_of("kto").joined, job_of("sft").joined) == (3, 3, 1)
    assert job_of("dpo", gradient_accumulation_steps=5).joined == 3
    assert job_of("dpo", model_name_or_path=str(job_of.folder / "other")).joined == 2
    assert job_of("dpo", recompute=True).joined == job_of("dpo", packing_samples=True).joined == 1


@pytest.mark.parametrize(
    ("trainer", "given", "models", "phases", "rows"),
    [
        ("sft", {}, ["policy"], ("update",), 4),
        ("rm", {}, ["reward"], ("update",), 8),
        ("rm", {"objective": "cost"}, ["reward"], ("update",), 8),
        ("dpo", {}, ["policy", "reference"], ("reference", "update"), 8),
        ("dpo", {"reference_free": True}, ["policy"], ("update",), 8),
        ("dpo", {"precompute_ref_logprobs": True}, ["policy"], ("update",), 8),
        ("kd", {}, ["policy", "teacher"], ("teacher", "update"), 4),
        ("kd", {"lmbda": 0.5, "kd_coef": 1}, ["policy", "teacher"], ("rollout", "teacher", "update"), 4),
        ("kto", {}, ["policy", "reference"], ("reference", "update"), 4),
    ],
)
def test_a_trainer_has_its_models_phases_and_rows(job_of, trainer, given, models, phases, rows):
    job = job_of(trainer, **given)
    assert (list(job.models), job.phases) == (models, phases)
    assert (job.trained, job.models[job.learner]) == ((models[0],), make_config())
    assert (job.rows_per_batch, job.micro_batches, job.length, job.response) == (rows, 3, 64, 63)


@pytest.mark.parametrize(
    ("trainer", "given", "passes"),
    [
        ("sft", {}, ()),
        ("dpo", {}, ("reference",)),
        ("dpo", {"precompute_ref_logprobs": True}, ()),
        ("dpo", {"loss_type": "bco_pair"}, ("reference", "policy")),
        ("kd", {}, ("teacher",)),
        ("kto", {}, ("reference", "reference", "policy")),
        ("kto", {"precompute_ref_logprobs": True}, ("policy",)),
        ("kto", {"loss_type": "vanilla"}, ("reference", "policy")),
        ("kto", {"loss_type": "apo_zero_unpaired"}, ("reference",)),
    ],
)
def test_passes_before_an_update_are_counted_for_its_duration(job_of, trainer, given, passes):
    assert job_of(trainer, **given).passes == passes


@pytest.mark.parametrize(("budget", "rows", "micro_batches"), [(None, 8, 3), (128, 2, 12), (300, 6, 4), (9999, 24, 1)])
def test_a_token_budget_is_planned_as_whole_pairs_of_full_length(job_of, budget, rows, micro_batches):
    """12 pairs an update, of 128 tokens each; the default budget is that of 4 pairs."""
    job = job_of("dpo", packing_samples=True, **({} if budget is None else {"max_tokens_per_batch": budget}))
    assert (job.rows_per_batch, job.micro_batches, job.max_tokens) == (rows, micro_batches, budget or 512)


@pytest.mark.parametrize("trainer", OFFLINE)
def test_every_offline_trainer_is_planned(job_of, trainer):
    assert phase_memory(job_of(trainer), Layout(), on_device).keys() == set(job_of(trainer).phases)


def test_one_process_that_learns_holds_weights_two_moments_and_gradients(job_of):
    assert POLICY == MATRICES + NORMS and SCORER == MATRICES + NORMS - 1003 * 64 + 64
    sft = phase_memory(job_of("sft", device="cpu"), Layout(), on_device)["update"].device
    assert (sft["policy weights"], sft["optimizer"]) == (POLICY * FLOAT, POLICY * 2 * FLOAT)
    reward = phase_memory(job_of("rm", device="cpu"), Layout(), on_device)["update"].device
    assert (reward["reward weights"], reward["optimizer"]) == (SCORER * FLOAT, SCORER * 2 * FLOAT)
    assert "policy weights" not in reward and not {"key-value cache", "rollout weights"} & {*sft, *reward}


def test_a_frozen_reference_has_weights_alone(job_of):
    moments = phase_memory(job_of("dpo"), Layout(), on_device)
    for moment in moments.values():
        assert moment.device["policy weights"] == moment.device["reference weights"] == POLICY * FLOAT
        assert moment.device["optimizer"] == POLICY * 2 * FLOAT
    assert "gradients" not in moments["reference"].device and moments["reference"].name == "reference forward"


def test_a_reference_that_is_named_counts_with_its_own_shape(job_of):
    job = job_of("dpo", ref_model_name_or_path=job_of.folder / "other")
    small = model_elements(make_config(num_hidden_layers=2), "causal")
    update = phase_memory(job, Layout(), on_device)["update"].device
    assert (update["policy weights"], update["reference weights"]) == (POLICY * FLOAT, small * FLOAT)


def test_an_offloaded_reference_is_on_the_host_while_the_policy_learns(job_of):
    moments = phase_memory(job_of("dpo", offload_level="freeze_model"), Layout(), on_device)
    assert moments["update"].host["offloaded"] == POLICY * FLOAT and "reference weights" not in moments["update"].device
    assert moments["reference"].device["reference weights"] == POLICY * FLOAT


@pytest.mark.parametrize("key", [{"teacher_offload": True}, {"offload_level": "freeze_model"}])
def test_a_teacher_counts_with_its_own_shape_and_the_states_that_it_leaves(job_of, key):
    tall, states = model_elements(make_config(num_hidden_layers=6), "causal"), 3 * 4 * 63 * 64
    here, away = (phase_memory(job_of("kd", **keys), Layout(), on_device) for keys in ({}, key))
    for moment in here.values():
        assert moment.device["policy weights"] == POLICY * FLOAT
        assert moment.device["teacher weights"] == tall * FLOAT
        assert moment.device["teacher states"] == states * FLOAT
    assert away["update"].host["offloaded"] == tall * FLOAT and "teacher weights" not in away["update"].device
    assert away["teacher"].device["teacher weights"] == tall * FLOAT
    assert away["update"].device["teacher states"] == (states + 1003 * 64) * FLOAT, "and its head"


def test_half_precision_has_masters(job_of):
    half = {"bf16": True, "fp16_opt_level": "O2"}
    update = phase_memory(job_of("sft", **half), Layout(), on_device)["update"].device
    assert (update["policy weights"], update["optimizer"]) == (POLICY * 2, POLICY * 12)


def last_moments(job):
    """Return the activations of the moments of an update in one process, by name."""
    (model,) = (model for model in place_models(job, Layout(), 0).values() if model.is_trained)
    return {moment.name: moment.activations for moment in update_moments(model)}


def test_logits_of_every_token_but_the_first_count_by_hand(job_of):
    job = job_of("sft", recompute=True, device="cpu", gradient_accumulation_steps=1)
    tokens, targets = 4 * 64, 4 * 63
    states = (4 * tokens + targets) * 64 * FLOAT  # inputs of four layers that are computed again, and of the last norm
    assert last_moments(job)["logits"] == states + targets * (1003 + 64) * FLOAT


def test_a_score_model_has_no_logits_and_two_rows_a_pair(job_of):
    one, two = (
        last_moments(job_of(trainer, recompute=True, device="cpu", per_device_train_batch_size=size))
        for trainer, size in (("sft", 8), ("rm", 4))
    )
    assert "logits" in one and "logits" not in two
    # The last layer of the language model computes what is read, so a layer more is left in the score model.
    assert one["layer before the last"] + 8 * 64 * 64 * FLOAT == two["last layer"] > 4 * 8 * 64 * 64 * FLOAT


@pytest.mark.parametrize("trainer", ["sft", "rm"])
def test_recomputing_needs_less(job_of, trainer):
    plain, again = (
        phase_memory(job_of(trainer, recompute=flag, max_length=512), Layout(), on_device)["update"]
        for flag in (False, True)
    )
    assert again.device["activations"] < 0.6 * plain.device["activations"]


def test_messages_are_those_of_the_model_that_learns(job_of):
    for trainer, elements in (("sft", POLICY), ("rm", SCORER)):
        sent = update_bytes(job_of(trainer), Layout(data=4))
        assert sent == {"tensor": 0, "pipeline": 0, "batch": 2 * 3 * elements * FLOAT // 4}


@pytest.mark.parametrize("trainer", OFFLINE)
def test_layouts_are_searched_without_a_rollout(job_of, trainer):
    job = job_of(trainer, eval_mode="tensor_parallel")
    found = search(job, processes=4, limit=1 << 34, machine=Machine(), like=Layout(data=4))
    assert {str(candidate.layout) for candidate in found} >= {"DP4", "TP4", "PP4", "Sh4 stage3"}


def test_a_folder_of_a_run_stands_for_its_model(job_of):
    assert job_of("rm", model_name_or_path=job_of.folder / "run").reward == make_config()
    run = job_of.folder / "run"
    for trainer, role in (("sft", "policy"), ("dpo", "policy"), ("kto", "policy"), ("kd", "policy")):
        assert job_of(trainer, model_name_or_path=run).models[role] == make_config()
    assert job_of("dpo", ref_model_name_or_path=run).own_reference == make_config()
    assert job_of("kd", teacher_model_name_or_path=run).teacher == make_config()
    config = {"model_name_or_path": None, "model_config_name_or_path": job_of.folder / "other" / "config.json"}
    config["tokenizer_name_or_path"] = job_of.folder / "model"
    assert job_of("sft", **config).policy.num_hidden_layers == 2


def test_a_model_that_is_nowhere_is_named_with_its_key(job_of, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ArgumentError, match=r"ref_model_name_or_path=org/absent: no config.json in"):
        job_of("dpo", ref_model_name_or_path="org/absent")


@pytest.mark.parametrize(("share", "response"), [(0.5, 63), (1.0, 16)])
def test_sampled_answers_leave_room_for_their_prompts(job_of, share, response):
    """An update on the data has more targets, unless there is none."""
    job = job_of("kd", lmbda=share, kd_coef=1, max_dec_len=16)
    assert (job.answer, job.prompt, job.response, job.sampled_share) == (16, 48, response, share)
    assert not job.is_on_policy and job.generates


def test_sampling_has_a_cache_and_an_engine_as_rollouts_have(job_of):
    """8 of the 12 rows of an update at once, 64 tokens each; the fused engine's matrices and its own copy of them."""
    job = job_of("kd", device="cpu", lmbda=1, kd_coef=1, max_dec_len=16, per_device_eval_batch_size=8)
    moments = phase_memory(job, Layout(), lambda moment: moment.everywhere)
    tokens = blocks_for(64, FusedSettings().block_tokens) * FusedSettings().block_tokens
    for moment in moments.values():
        assert moment.host["key-value cache"] == 8 * tokens * 2 * 4 * 4 * 8 * FLOAT
        assert moment.host["rollout weights"] == POLICY * FLOAT
    eager = job_of("kd", device="cpu", lmbda=1, kd_coef=1, use_fusemt="false")
    moments = phase_memory(eager, Layout(), lambda moment: moment.everywhere)
    assert "rollout weights" not in {**moments["update"].device, **moments["update"].host}


def test_a_whole_teacher_beside_a_student_in_two_processes(job_of):
    tall, states = model_elements(make_config(num_hidden_layers=6), "causal"), 3 * 4 * 63 * 64
    moments = phase_memory(job_of("kd", teacher_tensor_parallel_degree=1), Layout(tensor=2), on_device)
    for moment in moments.values():
        assert moment.device["teacher weights"] == tall * FLOAT
        assert moment.device["teacher states"] == (states + 502 * 64) * FLOAT


def test_a_teacher_in_two_processes_holds_the_states_of_both_while_it_runs(job_of):
    states, head = 3 * 4 * 63 * 64, 1003 * 64
    moments = phase_memory(job_of("kd", teacher_tensor_parallel_degree=2), Layout(data=2), on_device)
    found = [moments[phase].device["teacher states"] for phase in ("teacher", "update")]
    assert found == [(2 * states + head) * FLOAT, (states + head) * FLOAT]
    whole = model_elements(make_config(num_hidden_layers=6), "causal") * FLOAT
    assert 0.5 * whole < moments["update"].device["teacher weights"] < 0.6 * whole


def test_a_degree_of_the_teacher_that_does_not_fit_is_told_with_those_that_do(job_of):
    [problem] = layout_problems(job_of("kd", teacher_tensor_parallel_degree=3), Layout(data=4))
    assert problem.startswith("teacher_tensor_parallel_degree=3 does not divide the 4 processes")
    assert problem.endswith("allowed: 1, 2, 4")


@pytest.mark.parametrize(
    ("given", "above", "trained"),
    [
        (
            {"objective": "gating", "gating_hidden_size": 8, "gating_num_layers": 1},
            2 * 64 + 64 * 8 + 8 + 8 * 2 + 2,
            538,
        ),
        ({"train_head_only": "true"}, 64, 64),
    ],
)
def test_above_a_frozen_decoder_only_the_rest_has_gradients_and_moments(job_of, given, above, trained):
    """And the decoder keeps nothing for a backward pass."""
    labels = {"num_labels": 2, "id2label": {"0": "a", "1": "b"}} if "objective" in given else {}
    (job_of.folder / "rated").mkdir()
    (job_of.folder / "rated" / "config.json").write_text(json.dumps({**SHAPE, **labels}))
    job = job_of("rm", device="cpu", model_name_or_path=job_of.folder / "rated", **given)
    update = phase_memory(job, Layout(), on_device)["update"]
    assert update.device["reward weights"] == (SCORER - 64 + above) * FLOAT
    assert update.device["optimizer"] == trained * 2 * FLOAT
    model = place_models(job, Layout(), 0)["reward"]
    assert update.name == "reward forward" and update.device["activations"] == model.one_pass(8).forward_only
    # Over pipeline stages the gradient passes through the decoder.
    assert "last layer" in [
        moment.name for moment in update_moments(place_models(job, Layout(pipeline=2), 1)["reward"])
    ]


def test_label_smoothing_adds_a_gradient_of_the_heads_size(job_of):
    job = job_of("sft", device="cpu", label_smoothing=0.1)
    model, step = place_models(job, Layout(), 0)["policy"], place_models(job, Layout(), 0)["policy"].one_pass(4)
    [found] = {m.activations for m in update_moments(model) if m.name == "gradient of the head"}
    last = step.last(63)
    assert found == step.kept(3) + last.kept + last.read.norm_input + max(
        2 * 1003 * 64 * FLOAT + 3 * 4 * 63 * 64 * FLOAT, model.head(4 * 63, is_scaled=False).weight_back
    )
