"""The sources of rewards and their normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from alignment.algorithms.lagrange import LagrangeMultiplier
from alignment.arguments.rewards.entries import RewardEntry
from alignment.errors import ArgumentError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.runner import ModelRunner
from alignment.rollout.rewards.combined import CombinedScorer, RewardSource
from alignment.rollout.rewards.pairwise_scores import PairwiseScorer, StartScorer
from alignment.rollout.rewards.reward_normalization import RunningRewardNormalizer
from alignment.rollout.rewards.reward_service import HttpReward
from alignment.rollout.rewards.scorers import FailurePolicy, ModelScorer, Scorer, TextScorer
from alignment.rollout.rewards.terms import ScoreTerms
from alignment.rollout.rewards.text_batch import TextBatch
from alignment.rollout.rewards.user_code import text_function
from alignment.runs.launch import Launch
from alignment.runs.on_policy.reward_models import LoadedReward, Sources, reward_role
from alignment.runs.on_policy.roles import Roles
from alignment.runs.placed import place_frozen
from alignment.runs.state import StatePart
from alignment.telemetry import log

Normalize = Callable[[np.ndarray], np.ndarray]


def build_scorer(launch: Launch, roles: Roles) -> Scorer:
    """Return the reward model, function or service that the arguments name, or the sum of several."""
    source = launch.parsed.reward_source
    if source.pairwise:
        _tell_comparisons(source.pairwise, launch.parsed.on_policy.num_return_sequences)
    if source.entries:
        return CombinedScorer([_build_source(launch, roles, entry) for entry in source.entries])
    if source.model_entry is not None:
        return BUILDERS[source.model_entry.kind](launch, roles, source.model_entry, _Origin({"reward": roles.reward}))
    if source.use_rm_server:
        return _score_with_service(launch, roles, source.reward_server, f"reward service {source.reward_server}")
    return _score_with_function(launch, roles, source.reward_function, f"reward function {source.reward_function}")


def _tell_comparisons(entries: Sequence[RewardEntry], samples: int) -> None:
    count = samples * (samples - 1) * len(entries)
    log.info(
        f"{' and '.join(entry.name for entry in entries)}: the {samples} responses to a prompt are compared in pairs, "
        f"in both orders, which costs {count} comparisons a prompt (fewer where responses are equal); a response's "
        "score is its mean probability of being the better one, so the mean score in training is always 0.5. "
        "Evaluation compares each answer with the run's first one to the same prompt"
    )


def build_judges(launch: Launch, roles: Roles) -> dict[str, Scorer]:
    """Return the second judges of evaluations, by the word under which they are logged."""
    entries = Sources.judges(launch).entries
    origin = _Origin(roles.judges, is_judge=True)
    return {entry.log_as: against_start(BUILDERS[entry.kind](launch, roles, entry, origin)) for entry in entries}


def against_start(scorer: Scorer) -> Scorer:
    """Return what scores answers to held-out prompts: ``scorer``, but a model that compares the answers to a prompt
    compares each with the run's first one.
    """
    if isinstance(scorer, CombinedScorer):
        return CombinedScorer([replace(source, scorer=against_start(source.scorer)) for source in scorer.sources])
    return StartScorer(scorer) if isinstance(scorer, PairwiseScorer) else scorer


def first_answers(scorer: Scorer, judges: Mapping[str, Scorer]) -> StatePart | None:
    """Return the state of what ``scorer`` (of evaluations) and the second ``judges`` compare with the start; None if
    nothing does.
    """
    sources = scorer.sources if isinstance(scorer, CombinedScorer) else ()
    found = {"reward": scorer, **{f"source {one.log_as}": one.scorer for one in sources}}
    found |= {f"judge {name}": judge for name, judge in judges.items()}
    starts = {name: one for name, one in found.items() if isinstance(one, StartScorer)}

    def load(state: Mapping[str, Any]) -> None:
        for name in starts.keys() & state.keys():
            starts[name].load_state(state[name])

    def read() -> dict[str, Any]:
        return {name: one.state() for name, one in starts.items()}

    return StatePart(read, load, is_optional=True) if starts else None


def build_normalizer(launch: Launch, roles: Roles, scorer: Scorer) -> tuple[Normalize | None, StatePart | None]:
    """Return the normaliser of raw rewards and its state to save.

    A reward model with saved statistics is normalised by them, other sources by running statistics of this run. A
    reward model whose config.json says ``do_normalize`` is always normalised. Of several sources each is normalised
    alone, before its weight.
    """
    if isinstance(scorer, CombinedScorer):
        return scorer.normalize, StatePart(scorer.state, scorer.load_state)
    model = roles.reward and roles.reward.scoring
    normalize = _choose_normalizer("the reward model", model, asked=launch.parsed.reward_source.normalize_reward)
    if isinstance(normalize, RunningRewardNormalizer):
        return normalize, StatePart(normalize.state, normalize.load_state)
    return normalize, None


def build_terms(launch: Launch, tokenizer: Tokenizer) -> ScoreTerms | None:
    """Return the terms that the arguments ask for; None if there are none."""
    parsed = launch.parsed
    if not parsed.reward_terms.numbers:
        return None
    longest = parsed.generation.max_dec_len or parsed.data.max_length
    return ScoreTerms(
        numbers=parsed.reward_terms.numbers,
        limits=lambda rollout: np.minimum(longest, parsed.data.max_length - rollout.prompt_lengths),
        decode=lambda response: tokenizer.decode(response.tolist(), skip_special_tokens=True),
    )


def _choose_normalizer(name: str, model: ScoreModel | None, *, asked: bool) -> Normalize | None:
    if not asked:
        if model is None or not (model.options.do_normalize and model.has_statistics):
            return None
        log.info(f"the config.json of {name} sets do_normalize: rewards are normalised by its statistics")
    if model is not None and model.has_statistics:
        return model.normalize_scores
    log.info("normalize_reward: the reward source has no statistics; running statistics of this run are used")
    return RunningRewardNormalizer()


def _build_source(launch: Launch, roles: Roles, entry: RewardEntry) -> RewardSource:
    asked = launch.parsed.reward_source.normalize_reward if entry.normalize is None else entry.normalize
    loaded = roles.rewards.get(entry.log_as)
    return RewardSource(
        log_as=entry.log_as,
        scorer=BUILDERS[entry.kind](launch, roles, entry, _Origin(roles.rewards)),
        factor=entry.factor,
        normalize=_choose_normalizer(entry.log_as, loaded and loaded.scoring, asked=asked),
    )


class _Origin(NamedTuple):
    """The key that an entry stands in."""

    models: Mapping[str, LoadedReward]
    """The loaded models of the key."""
    is_judge: bool = False
    """Whether the key is ``eval_reward``, else ``reward_sources``."""

    def name(self, entry: RewardEntry) -> str:
        """Return what messages call a function or service."""
        if self.is_judge:
            return f"second judge {entry.log_as} ({entry.name} in eval_reward)"
        return f"reward {entry.kind} {entry.name} (source {entry.log_as} of reward_sources)"


def _build_model(launch: Launch, roles: Roles, entry: RewardEntry, origin: _Origin) -> Scorer:
    model, sequences = origin.models[entry.log_as]
    return _score_with_model(launch, entry.log_as, model, sequences, rows=entry.batch_size)


def _build_pairwise(launch: Launch, roles: Roles, entry: RewardEntry, origin: _Origin) -> Scorer:
    model, reader = origin.models[entry.log_as]
    runner, rows = _place(launch, entry.log_as, model, rows=entry.batch_size)
    who = launch.ranks_of(reward_role(launch, entry.log_as))
    return PairwiseScorer(runner, reader, rows_per_batch=rows, who=who)


def _build_function(launch: Launch, roles: Roles, entry: RewardEntry, origin: _Origin) -> Scorer:
    name = origin.name(entry)
    return _score_with_function(launch, roles, entry.name, name, options=entry.options, is_judge=origin.is_judge)


def _build_service(launch: Launch, roles: Roles, entry: RewardEntry, origin: _Origin) -> Scorer:
    return _score_with_service(launch, roles, entry.name, origin.name(entry), is_judge=origin.is_judge)


BUILDERS: Mapping[str, Callable[[Launch, Roles, RewardEntry, _Origin], Scorer]] = MappingProxyType(
    {
        "model": _build_model,
        "cost": _build_model,
        "pairwise": _build_pairwise,
        "function": _build_function,
        "service": _build_service,
    }
)
"""Builds the scorer of a source of ``reward_sources`` or of a judge, by kind (``arguments.rewards.entries.KINDS``)."""


def _score_with_model(
    launch: Launch, name: str, model: ScoreModel, sequences: Any, *, rows: int = -1, what: str = "reward model"
) -> ModelScorer:
    """Return ``model``, placed as ``name``, as a scorer of ``rows`` at a time (-1: by the arguments); messages call it
    ``what``.
    """
    runner, rows = _place(launch, name, model, rows=rows)
    starts = sequences.starts if model.options.needs_starts else None
    who = launch.ranks_of(reward_role(launch, name))
    return ModelScorer(runner, sequences, rows_per_batch=rows, starts=starts, name=what, who=who)


def _place(launch: Launch, name: str, model: ScoreModel | CausalLM, *, rows: int) -> tuple[ModelRunner, int]:
    """Return the runner of ``model``, placed as ``name``, and its rows per pass: ``rows`` (-1: by the arguments)."""
    sizes = (rows, launch.parsed.reward_source.per_device_reward_batch_size)
    rows = next((size for size in sizes if size > 0), launch.parsed.training.per_device_train_batch_size)
    offload = "freeze_model" in launch.parsed.parallel.offloaded
    who = launch.ranks_of(reward_role(launch, name))
    return place_frozen(name, model, who.topology, offload=offload), rows


def _score_with_service(launch: Launch, roles: Roles, address: str, name: str, *, is_judge: bool = False) -> TextScorer:
    call = HttpReward(address, timeout_seconds=launch.parsed.reward_source.reward_timeout)
    return _score_text(launch, roles, call, name, is_judge=is_judge)


def _score_with_function(
    launch: Launch,
    roles: Roles,
    path: str,
    name: str,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    is_judge: bool = False,
) -> TextScorer:
    call = text_function(path, launch.parsed.base_dir, options)
    return _score_text(launch, roles, call, name, is_judge=is_judge)


def _score_text(
    launch: Launch, roles: Roles, call: Callable[[TextBatch], Any], name: str, *, is_judge: bool
) -> TextScorer:
    source = launch.parsed.reward_source
    instead = "leaves such answers out of the judge's mean" if is_judge else "leaves such prompts out of the losses"
    policy = FailurePolicy(
        retries=source.reward_retries,
        on_failure=source.on_reward_failure,
        advice=f". on_reward_failure=stop ends the run here; on_reward_failure=mask_group {instead}",
        is_judge=is_judge,
    )
    return TextScorer(call, roles.tokenizer, name=name, policy=policy, world=launch.topology.world)


def build_cost_scorer(launch: Launch, roles: Roles) -> Scorer | None:
    """Return the cost model as a scorer; None if the algorithm needs none."""
    return None if roles.cost is None else _score_with_model(launch, "cost", *roles.cost, what="cost model")


def build_cost_normalizer(launch: Launch, roles: Roles) -> Normalize | None:
    """Return what divides raw costs by the standard deviation that the cost model has saved; None: they stay raw.

    A cost model whose config.json says ``do_normalize`` is always normalised. ArgumentError if there is none saved.
    """
    if roles.cost is None:
        return None
    model, is_asked = roles.cost.model, launch.parsed.cost.normalize_cost
    if is_asked and not model.has_statistics:
        raise ArgumentError(
            f"normalize_cost=true, but the cost model {launch.parsed.cost.cost_model_name_or_path} has no statistics "
            "of its scores: train it with a normalizer_type, or leave normalize_cost out"
        )
    return model.normalize_scores if is_asked or (model.options.do_normalize and model.has_statistics) else None


def build_multiplier(hyperparameters: Any) -> LagrangeMultiplier:
    """Return the multiplier of the cost before the first rollout."""
    return LagrangeMultiplier(
        initial=hyperparameters.lambda_init,
        threshold=hyperparameters.threshold,
        learning_rate=hyperparameters.lambda_lr,
        maximum=hyperparameters.lambda_max,
        delay=hyperparameters.lambda_update_delay_steps,
        window=hyperparameters.episode_cost_window_size,
    )
