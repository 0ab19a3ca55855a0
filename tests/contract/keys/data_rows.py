"""Keys of data, models and the reward model's loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, get_args, get_origin

import numpy as np

from alignment.arguments.groups import DeclaredArgument, declare
from alignment.fields import Situation
from alignment.rollout.merging_engine import MergingEngine
from alignment.trainers.objectives import OBJECTIVES
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import Run
from tests.contract.keys.rows import ALL, EIGHT_ROWS, EVALUATED, SUPERVISED, Row, held_out, is_ppo

SFT, RM, DPO, KD, PPO, PAIRWISE = ("sft",), ("rm",), ("dpo",), ("kd",), ("ppo",), ("pairwise",)
REFERRING = ("dpo", "kto")
"""Trainers that compare with a reference."""
POLICIES = tuple(name for name in SUPERVISED if TRAINERS[name].models == ("policy",))
RANDOM_REWARD = "runs.offline.models.random_score_model"
SFT_MODEL = "runs.offline.models.load_causal_lm"
SFT_RANDOM = "runs.offline.models.random_causal_lm"
REWARD_MODEL = "runs.offline.models.load_score_model"
REWARD_TASK = "runs.offline.train.build_task"
REFERENCE = "runs.offline.reference.place"
ROLE_LM = "runs.on_policy.roles.load_causal_lm"
ROLE_SCORES = ("runs.on_policy.reward_models.load_score_model", "runs.on_policy.roles.load_score_model")
"""Of the reward model, and of the critic."""


def _lengths(run: Run) -> list[int]:
    """The longest sequence of the dataset, and in PPO of an answer and of the engine's memory."""
    lengths = [run.dataset.options.max_length]
    if is_ppo(run):
        lengths += [run.loop.collector.options.max_total_tokens, run.loop.engine.engine._settings.max_length]
    return lengths


def _tokenizer_folder(run: Run) -> str:
    return str(run.call("runs.models.load_tokenizer")[0])


def _loaded(run: Run, name: str, number: int = 0) -> str:
    return str(run.call(name, number)[0])


def _splits(run: Run) -> tuple[int, int]:
    return len(run.dataset), 0 if run.evaluation is None else len(held_out(run))


def columns_of(run: Run, number: int = 0) -> Any:
    """What the reading of training data (0) or of evaluation data (1) is told."""
    return run.call("runs.datasets.parse_datasets", number)["defaults"]


def _column_row(key: str) -> Row:
    return Row(key, f"my_{key}", lambda r: columns_of(r)[key])


def _loss(run: Run) -> Any:
    return run.call(REWARD_TASK)[1]


def _num_loaded(run: Run) -> int:
    return len(run.given[ROLE_LM if is_ppo(run) else SFT_MODEL])


def _ends(run: Run) -> set[str]:
    """The last words of the comparisons of a pairwise model."""
    ends = [sample[f"{order}_first_input_ids"][-1:] for sample in run.dataset for order in ("better", "worse")]
    return {run.dataset.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in ends}


def _num_kept(run: Run) -> int:
    """Rows whose log-probs an earlier pass of the reference left."""
    return sum(len(np.load(path)["numbers"]) for path in run.launch.output_dir.glob("reference_logprobs/*/rows.npz"))


def _movement(run: Run) -> Any:
    """(updates between moves of the reference, share of the policy)."""
    return run.call(REWARD_TASK)["reference"].moving.movement


def _teacher(run: Run) -> Any:
    return run.loop.task.prepare.__self__


def _is_here(run: Run) -> bool:
    return any(parameter._is_initialized() for parameter in _teacher(run)._runner.model.parameters())


def _sampler(run: Run) -> Any:
    """The engine that samples the student's own answers, which is built for the first of them."""
    engine = run.loop.task.renew.make_engine(run.learner)
    return engine.inner if isinstance(engine, MergingEngine) else engine


def score_model(run: Run) -> Any:
    return run.learner.runner.model


SAMPLES = {"lmbda": 1.0, "kd_coef": 1.0}

COLUMNS = (
    *map(_column_row, ("input_key", "output_key", "label_key", "chosen_key", "rejected_key", "messages_key")),
    *map(_column_row, ("chosen_score_key", "rejected_score_key", "system_key", "tools_key")),
    Row("layout", "alpaca", lambda r: columns_of(r)["layout"]),
    Row("ignored_columns", "one, two", lambda r: columns_of(r)["ignored_columns"], ("one", "two")),
    Row("train_split", "mine", lambda r: columns_of(r)["split"]),
    Row("eval_split", "mine", lambda r: columns_of(r, 1)["split"], with_=EVALUATED),
)


_OWN_ROWS = ("reference_free", "lmbda")


def _loss_rows() -> Iterator[Row]:
    """Yield a row for each hyperparameter of the losses of policies: the loss gets it."""
    for trainer in (name for name in OBJECTIVES if OBJECTIVES[name].hyperparameters):
        keys = declare({"loss": OBJECTIVES[trainer].hyperparameters})
        for key in keys:
            if not key.constraint.no_effect and not key.constraint.refusal and key.name not in _OWN_ROWS:
                value, with_ = _other_value(key), _loss_that_reads(key, keys)
                if key.name in ("margin_scale", "offset_alpha"):
                    with_ = {"train_datasets": "jsonl:1:{margins.jsonl}"}
                alone = bool(value != 0.25 or with_ or key.constraint.refused_when)
                observe = partial(_hyperparameter, key.name)
                yield Row(key.name, value, observe, with_=with_, only=(trainer,), alone=alone)


def _other_value(key: DeclaredArgument) -> Any:
    """Return a value that is not the default."""
    if key.hint in (float, float | None):
        return 0.25
    if key.hint == tuple[float, ...] | None:
        return (0.25,)
    if get_origin(key.hint) is tuple:
        return (next(word for word in _words(key) if word not in key.default),)
    return next(word for word in _words(key) or (True, False) if word != key.default)


def _words(key: DeclaredArgument) -> tuple[Any, ...]:
    hint = get_args(key.hint)[0] if get_origin(key.hint) is tuple else key.hint
    return get_args(hint) if get_origin(hint) is Literal else ()


def _loss_that_reads(key: DeclaredArgument, keys: Sequence[DeclaredArgument]) -> dict[str, Any]:
    """Return the keys of a loss in which ``key`` has an effect; none if it has by default."""
    defaults = {other.name: other.default for other in keys}
    losses = next((_words(other) for other in keys if other.name == "loss_type"), ())
    for chosen in ({}, *({"loss_type": (loss,)} for loss in losses)):
        situation = Situation("cpu", 1, {**defaults, **chosen})
        if not any(case.holds(_other_value(key), situation) for case in key.constraint.inert_when):
            return chosen
    raise AssertionError(f"{key.name} has an effect in no loss")


def _hyperparameter(name: str, run: Run) -> Any:
    return getattr(_loss(run), name)


ROWS = (
    *_loss_rows(),
    *COLUMNS,
    Row(
        "train_datasets", {t: text.replace(":8/", ":10/") for t, text in EIGHT_ROWS.items()},
        lambda r: len(r.dataset), 10, alone=True,
    ),
    Row("eval_datasets", EIGHT_ROWS, lambda r: _splits(r)[1], 8, with_={"do_eval": True}),
    Row("eval_split_ratio", 0.25, _splits, (18, 6), with_={"do_eval": True}, alone=True),
    Row("max_length", 77, _lengths, {**dict.fromkeys(SUPERVISED, [77]), "ppo": [77] * 3}),
    Row("max_prompt_len", 33, lambda r: r.dataset.options.max_prompt_length),
    Row("on_overlong", {**dict.fromkeys(ALL, "left"), "pairwise": "error"}, lambda r: r.dataset.options.on_overlong),
    Row("on_bad_row", "error", lambda r: r.dataset.options.on_bad_row),
    Row("chat_template", "none", lambda r: r.dataset.options.template, "pku"),
    Row(
        "input_template", "User: {}\\nAssistant: ",
        lambda r: (r.dataset.options.template, r.learner.runner.model.config.trained_template["input_template"]),
        ("User: {}\nAssistant: ",) * 2, with_={"chat_template": "none"}, alone=True,
    ),
    Row(
        "tokenizer_chat_template", "{own.jinja}",
        lambda r: r.dataset.tokenizer.chat_template == (r.folder / "own.jinja").read_text(), True,
        with_={"chat_template": "none"}, alone=True,
    ),
    Row(
        "input_template", "Q: {}\nA:", lambda r: r.dataset.options.template, with_={"chat_template": None}, alone=True,
    ),
    Row(
        "tokenizer_chat_template", "{own.jinja}", lambda r: "{# mine #}" in r.dataset.tokenizer.chat_template, True,
        alone=True,
    ),
    Row(
        "dataset_modules", "{module.py}", lambda r: r.call("runs.datasets.load_dataset_modules")[0],
        ("{module.py}",),
    ),
    Row("dataloader_shuffle", False, lambda r: r.loader._order(0).tolist()[:4], [0, 1, 2, 3]),
    Row(
        "dataloader_drop_last", True, lambda r: r.loader.dropped_per_epoch, 4,
        with_={"gradient_accumulation_steps": 5, "per_device_prompt_batch_size": {"ppo": 20}}, alone=True,
    ),
    Row("dataloader_num_workers", 3, lambda r: r.call("runs.datasets.Encoding")["num_workers"]),
    Row("encoded_cache_dir", "{named}", lambda r: str(r.call("runs.datasets.Encoding")["cache_dir"])),
    Row("tokenizer_name_or_path", "{tokenizer}", _tokenizer_folder, alone=True),
    Row("model_name_or_path", "{other}", lambda r: _loaded(r, SFT_MODEL), only=(*POLICIES, "pairwise"), alone=True),
    Row("model_name_or_path", "{other}", lambda r: _loaded(r, REWARD_MODEL), only=RM, alone=True),
    Row(
        "model_config_name_or_path", "{config}",
        lambda r: _loaded(r, next(name for name in (SFT_RANDOM, RANDOM_REWARD) if name in r.given)),
        with_={"model_name_or_path": None, "tokenizer_name_or_path": "{tokenizer}"}, only=SUPERVISED, alone=True,
    ),
    Row(
        "actor_model_name_or_path", "{other}", lambda r: [_loaded(r, ROLE_LM, n) for n in (0, 1)],
        ["{other}"] * 2, with_={"reference_from_policy": False}, only=PPO, alone=True,
    ),
    Row("reference_from_policy", False, _num_loaded, 2, only=(*REFERRING, *PPO), alone=True),
    Row(
        "reward_critic_model_name_or_path", "{other reward}",
        lambda r: [_loaded(r, name, 0) for name in ROLE_SCORES], ["{reward}", "{other reward}"],
        only=PPO, alone=True,
    ),
    Row(
        "reward_model_name_or_path", "{other reward}",
        lambda r: [_loaded(r, name, 0) for name in ROLE_SCORES], ["{other reward}"] * 2,
        only=PPO, alone=True,
    ),
    Row("value_head_prefix", "score", lambda r: r.call(REWARD_MODEL)["stored_head"].prefix, only=RM),
    Row(
        "value_head_prefix", "score",
        lambda r: [r.call(name)["stored_head"].prefix for name in ROLE_SCORES], ["score"] * 2,
        with_={"reward_model_name_or_path": "{reward}"}, only=PPO,
    ),
    Row(
        "objective", "cost", lambda r: (r.call(REWARD_TASK)[0].title, score_model(r).options.score_type),
        ("cost model", "cost"), with_={"train_datasets": "jsonl:1:{safety.jsonl}"}, only=RM, alone=True,
    ),
    Row("reference_free", True, lambda r: (_loss(r).reference_free, _num_loaded(r)), (True, 1), only=DPO, alone=True),
    Row("ref_model_name_or_path", "{other}", lambda r: _loaded(r, SFT_MODEL, 1), only=REFERRING),
    Row("precompute_ref_logprobs", True, _num_kept, 48, only=REFERRING, alone=True),
    Row("ref_offload", True, lambda r: r.call(REFERENCE)["offload"], only=REFERRING),
    Row("ref_model_update_steps", 3, _movement, (3, 1.0), only=REFERRING, alone=True),
    Row("sync_ref_model", True, _movement, (512, 0.6), only=REFERRING, alone=True),
    Row("ref_model_sync_steps", 7, _movement, (7, 0.6), with_={"sync_ref_model": True}, only=REFERRING, alone=True),
    Row(
        "ref_model_mixup_alpha", 0.25, _movement, (512, 0.25), with_={"sync_ref_model": True}, only=REFERRING,
        alone=True,
    ),
    Row("teacher_model_name_or_path", "{other}", lambda r: _loaded(r, SFT_MODEL, 1), only=KD),
    Row("teacher_offload", True, lambda r: (_teacher(r)._is_offloaded, _is_here(r)), (True, False), only=KD),
    Row("beta", 0.75, lambda r: _teacher(r)._kind.beta, only=KD),
    Row("temperature", 1.5, lambda r: _teacher(r)._kind.temperature, only=KD),
    Row("lmbda", 0.5, lambda r: r.loop.task.renew.share, with_={"kd_coef": 1.0}, only=KD, alone=True),
    Row(
        "max_dec_len", 9, lambda r: r.loop.task.renew.options.max_new_tokens, with_={"lmbda": 1.0, "kd_coef": 1.0},
        only=KD, alone=True,
    ),
    Row("teacher_tensor_parallel_degree", 2, lambda r: r.launch.parsed.teacher.own_degree(8), only=KD),
    Row("use_fusemt", False, lambda r: type(_sampler(r)).__name__, "EagerEngine", with_=SAMPLES, only=KD, alone=True),
    Row("rollout_weight_type", "bfloat16", lambda r: _sampler(r)._settings.weight_type, with_=SAMPLES, only=KD),
    Row("rollout_kv_type", "bfloat16", lambda r: _sampler(r)._settings.kv_type, with_=SAMPLES, only=KD),
    Row("rollout_kv_memory", "3MiB", lambda r: _sampler(r)._settings.kv_bytes, 3 * 2**20, with_=SAMPLES, only=KD),
    Row("speculative_tokens", 3, lambda r: _sampler(r)._settings.speculative_tokens, with_=SAMPLES, only=KD),
    Row(
        "speculative_method", "previous", lambda r: _sampler(r)._settings.speculative_method,
        with_={**SAMPLES, "speculative_tokens": 3}, only=KD,
    ),
    Row("logprob_gap_limit", 0.125, lambda r: r.loop.task.renew.gate.limit, with_=SAMPLES, only=KD),
    Row("on_logprob_gap", "stop", lambda r: r.loop.task.renew.gate.action, with_=SAMPLES, only=KD),
    Row("label_smoothing", 0.25, lambda r: _loss(r).label_smoothing, only=SFT),
    Row("loss_on", "last", lambda r: r.dataset.options.targets, only=SFT, alone=True),
    Row("pretrain_mode", True, lambda r: r.dataset.options.targets, "text", only=SFT, alone=True),
    Row("loss_type", "token-wise", lambda r: _loss(r).loss_type, only=RM),
    Row(
        "loss_type", "average", lambda r: (_loss(r).loss_type, score_model(r).options.score_form), ("average",
        "average"),
        only=RM, alone=True,
    ),
    Row(
        "margin_loss", True, lambda r: (r.dataset.KIND, _loss(r).uses_margin), ("preference with margins", True),
        with_={"train_datasets": "jsonl:1:{margins.jsonl}"}, only=RM, alone=True,
    ),
    Row(
        "margin_key", "gap", lambda r: columns_of(r)["margin_key"],
        with_={"train_datasets": "jsonl:1:{margins.jsonl}", "margin_loss": True}, only=RM, alone=True,
    ),
    Row(
        "margin_key", "gap", lambda r: columns_of(r)["margin_key"],
        with_={"train_datasets": "jsonl:1:{margins.jsonl}", "margin_scale": 1}, only=DPO, alone=True,
    ),
    Row(
        "margin_key", "gap", lambda r: columns_of(r)["margin_key"],
        with_={"train_datasets": "jsonl:1:{margins.jsonl}"}, only=PAIRWISE, alone=True,
    ),
    Row(
        "pairwise_template", "{context} one {response_A} two {response_B}",
        lambda r: r.dataset.options.comparison.template.split()[1::2], ["one", "two"], only=PAIRWISE, alone=True,
    ),
    Row(
        "pairwise_turn", "{content} <user>", lambda r: r.dataset.options.comparison.turn[9:], " <user>",
        only=PAIRWISE, alone=True,
    ),
    Row(
        "pairwise_letters", ["tent", "lamp"], lambda r: _ends(r), {"tent", "lamp"}, only=PAIRWISE, alone=True,
    ),
    Row("center_rewards_coefficient", 0.25, lambda r: _loss(r).center_rewards_coefficient, only=RM),
    Row("regularization", 0.125, lambda r: _loss(r).regularization, only=RM),
    Row(
        "regularization_convention", "safe-rlhf", lambda r: _loss(r).regularization_convention,
        with_={"regularization": 0.125}, only=RM,
    ),
)  # fmt: skip
