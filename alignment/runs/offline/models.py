"""The models that offline runs train, loaded from a folder or initialised randomly."""

from __future__ import annotations

from typing import Any

from alignment.architecture.adapter import HEAD
from alignment.data.encoded.steps import step_token_id
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import (
    load_causal_lm,
    load_score_model,
    random_causal_lm,
    random_score_model,
)
from alignment.models.folders.run_models import RUN_MODELS
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.runs.adapters import trained_placement
from alignment.runs.launch import Launch
from alignment.runs.offline.gating import freeze_below
from alignment.runs.offline.objective import TrainedModel


def load_policy(launch: Launch, folder: str | None, tokenizer: Tokenizer, *, is_trained: bool = True) -> CausalLM:
    """Return the language model in ``folder``; None: random weights with the run's configuration."""
    placement = trained_placement(launch) if is_trained else Placement.of(launch.topology)
    options = {"tokenizer": tokenizer, "dtype": launch.dtype, "placement": placement}
    if folder is None:
        config, seed = launch.parsed.offline.model_config_name_or_path, launch.parsed.training.seed
        return random_causal_lm(config, seed=seed, **options)
    return load_causal_lm(folder, **options)


def load_scorer(launch: Launch, folder: str | None, tokenizer: Tokenizer, *, is_trained: bool = True) -> ScoreModel:
    """Return the score model to train: a checkpoint, a reward model, or a language model with a new score head."""
    reward, seed = launch.parsed.offline, launch.parsed.training.seed
    placement = trained_placement(launch) if is_trained else Placement.of(launch.topology)
    options = ScoreOptions(
        score_type="cost" if reward.objective == "cost" else "reward",
        labels=reward.attributes if len(reward.attributes) > 1 else (),
        score_bias=reward.score_bias,
        **_score_form(launch, tokenizer),
        do_normalize=reward.normalize_score_during_training,
        normalizer_type=None if reward.objective in ("regression", "process") else reward.normalizer_type,
        normalizer_momentum=reward.normalizer_momentum,
    )
    if folder is None:
        config = reward.model_config_name_or_path
        return random_score_model(
            config, options, seed=seed, tokenizer=tokenizer, dtype=launch.dtype, placement=placement
        )
    # With an adapter the folder is the base also when resuming: the adapter brings the head.
    fresh = launch.checkpoint is None or launch.parsed.adapter.lora
    model = load_score_model(
        folder,
        dtype=launch.dtype,
        options=options if fresh else None,
        new_score_head=fresh,
        stored_head=StoredHead(
            reward.value_head_prefix if fresh else None, keeps_attributes=reward.objective == "regression"
        ),
        seed=seed,
        placement=placement,
    )
    if reward.train_head_only:
        freeze_below(model, HEAD)
    return model


def _score_form(launch: Launch, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the options that say what the score of a sequence is."""
    reward = launch.parsed.offline
    if reward.objective == "process":
        token = step_token_id(tokenizer, reward.placeholder_token)
        return {"score_form": "steps", "step_token_id": token, "step_aggregation": reward.step_aggregation}
    return {"score_form": "average" if launch.parsed.loss.loss_type == "average" else "end"}


POLICY = TrainedModel("policy", parts=("policy",), load=load_policy)
JUDGE = TrainedModel("reward", parts=("policy", "reward"), load=load_policy)
"""A language model that compares answers."""
SCORER = TrainedModel("reward", parts=RUN_MODELS, load=load_scorer)
