"""The source of rewards and their normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alignment.rollout.rewards.reward_normalization import RunningRewardNormalizer
from alignment.rollout.rewards.reward_service import HttpReward
from alignment.rollout.rewards.scorers import FailurePolicy, ModelScorer, Scorer, TextScorer
from alignment.rollout.rewards.text_batch import TextBatch
from alignment.rollout.rewards.user_code import load_function
from alignment.runs.launch import Launch
from alignment.runs.on_policy.roles import Roles
from alignment.runs.placed import place_frozen
from alignment.runs.state import StatePart
from alignment.telemetry import log


def build_scorer(launch: Launch, roles: Roles) -> Scorer:
    """Return the reward model, function or service that the arguments name."""
    source = launch.parsed.reward_source
    if roles.reward is not None:
        rows = source.per_device_reward_batch_size
        rows = rows if rows > 0 else launch.parsed.training.per_device_train_batch_size
        offload = "freeze_model" in launch.parsed.parallel.offloaded
        runner = place_frozen("reward", roles.reward, launch.topology, offload=offload)
        averages = roles.reward.options.score_form == "average"
        starts = roles.sequences.starts if averages else None
        return ModelScorer(runner, roles.sequences, rows_per_batch=rows, starts=starts)
    world = launch.topology.world
    policy = FailurePolicy(retries=source.reward_retries, on_failure=source.on_reward_failure)
    if source.use_rm_server:
        call: Any = HttpReward(source.reward_server, timeout_seconds=source.reward_timeout)
        return TextScorer(
            call, roles.tokenizer, name=f"reward service {source.reward_server}", policy=policy, world=world
        )
    function = load_function(source.reward_function, launch.parsed.base_dir)

    def score(batch: TextBatch) -> Any:
        return function(batch.inputs, batch.responses, batch.labels)

    return TextScorer(
        score, roles.tokenizer, name=f"reward function {source.reward_function}", policy=policy, world=world
    )


def build_normalizer(
    launch: Launch, roles: Roles
) -> tuple[Callable[[np.ndarray], np.ndarray] | None, StatePart | None]:
    """Return the normaliser of raw rewards and its state to save.

    A reward model with saved statistics is normalised by them, other sources by running statistics of this run. A
    reward model whose config.json says ``do_normalize`` is always normalised.
    """
    if not launch.parsed.reward_source.normalize_reward:
        if roles.reward is None or not (roles.reward.options.do_normalize and roles.reward.has_statistics):
            return None, None
        log.info("the reward model's config.json sets do_normalize: rewards are normalised by its statistics")
    if roles.reward is not None and roles.reward.has_statistics:
        return roles.reward.normalize_scores, None
    log.info("normalize_reward: the reward source has no statistics; running statistics of this run are used")
    running = RunningRewardNormalizer()
    return running, StatePart(running.state, running.load_state)
