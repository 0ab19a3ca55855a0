"""The four models of PPO and their tokenizers: policy, reference, critic, reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.data.encode import Encoder
from alignment.errors import ArgumentError
from alignment.loops.launch import Launch
from alignment.loops.trainer_models import check_layout, resumed_folder
from alignment.models.config import DecoderConfig, read_config_dict
from alignment.models.decoder import CausalLM
from alignment.models.hub import (
    check_fit,
    load_causal_lm,
    load_score_model,
    resolve_model_folder,
)
from alignment.models.placement import WHOLE, Placement
from alignment.models.score_model import ScoreModel, ScoreOptions
from alignment.models.tokenizer import Tokenizer, load_tokenizer
from alignment.rollout.retokenize import Retokenized, SameTokens
from alignment.rollout.rollout_weights import check_rollout
from alignment.telemetry import log


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Loaded models; ``reward`` is None when a function or a service gives the rewards."""

    tokenizer: Tokenizer
    policy: CausalLM
    reference: CausalLM
    critic: ScoreModel
    reward: ScoreModel | None
    sequences: Any
    """Turns a rollout into the reward model's token ids."""


def load_roles(start: Launch) -> Roles:
    """Load what the arguments name; policy and critic come from the checkpoint when resuming."""
    ppo, source, dtype = start.parsed.ppo, start.parsed.reward_source, start.dtype
    actor = str(resolve_model_folder(ppo.actor_model_name_or_path))
    critic = str(resolve_model_folder(ppo.reward_critic_model_name_or_path or source.reward_model_name_or_path))
    reward = source.reward_model_name_or_path and str(resolve_model_folder(source.reward_model_name_or_path))
    tokenizer = load_tokenizer(start.parsed.model.tokenizer_name_or_path or actor)
    require_same_tokenizer(tokenizer, critic)
    max_length = start.parsed.data.max_length
    for folder in (actor, critic):
        check_layout(start, check_fit(folder, tokenizer, max_length=max_length), folder)
    if reward:
        check_layout(start, DecoderConfig.read(reward), reward)
    check_rollout(
        DecoderConfig.read(actor),
        start.topology.layout,
        eval_mode=start.parsed.parallel.eval_mode,
        degree=start.parsed.parallel.rollout_tensor_parallel_degree,
    )
    options = {"dtype": dtype, "placement": Placement.of(start.topology)}
    head = source.value_head_prefix
    sequences = choose_sequences(start, tokenizer, reward) if reward else None
    return Roles(
        tokenizer=tokenizer,
        # Before the critic, which may start from the same folder and forgives a missing score head.
        reward=freeze(load_score_model(reward, head_prefix=head, **options)) if reward else None,
        policy=load_causal_lm(resumed_folder(start, "policy", actor), tokenizer=tokenizer, **options),
        reference=freeze(load_causal_lm(actor, tokenizer=tokenizer, **options)),
        critic=load_critic(
            resumed_folder(start, "value", critic),
            head_prefix=head if start.checkpoint is None else None,
            **options,
        ),
        sequences=sequences,
    )


def load_critic(
    folder: str,
    *,
    head_prefix: str | None = None,
    dtype: str = "float32",
    placement: Placement = WHOLE,
) -> ScoreModel:
    """Return the model in ``folder`` as a critic: its score head without normalisation, or a head of zeros.

    From a drawn head the first values are noise, worse than any constant; from zeros the first update explains nothing
    and spoils nothing.
    """
    saved = ScoreOptions.from_dict(read_config_dict(folder))
    options = ScoreOptions(score_type="critic", score_bias=saved.score_bias)
    return load_score_model(
        folder,
        dtype=dtype,
        options=options,
        new_score_head=True,
        head_prefix=head_prefix,
        seed=None,
        placement=placement,
    )


def freeze(model: Any) -> Any:
    """Return ``model`` without gradients, in evaluation mode."""
    for parameter in model.parameters():
        parameter.stop_gradient = True
    model.eval()
    return model


def require_same_tokenizer(tokenizer: Tokenizer, critic: str) -> None:
    """Refuse a critic with another vocabulary: it reads the policy's token ids."""
    other = load_tokenizer(critic)
    if other.fingerprint() != tokenizer.fingerprint():
        raise ArgumentError(
            f"the critic in {critic} has another tokenizer ({len(other)} tokens) than the policy ({len(tokenizer)}): "
            "it reads the policy's token ids, so both must be the same. Name a critic of the policy's family in "
            "reward_critic_model_name_or_path (the reward model itself may differ)"
        )


def choose_sequences(start: Launch, tokenizer: Tokenizer, reward: str) -> Any:
    """Return how rollouts are handed to the reward model: as they are, or in its own tokens."""
    own, data = load_tokenizer(reward), start.parsed.data
    same_template = data.chat_template != "tokenizer" or own.chat_template in (None, tokenizer.chat_template)
    if own.fingerprint() == tokenizer.fingerprint() and same_template:
        check_fit(reward, own, max_length=data.max_length)
        return SameTokens()
    longest = check_fit(reward, own, max_length=1).longest_sequence
    template = "tokenizer" if data.chat_template == "tokenizer" and own.chat_template else "pku"
    log.info(
        "the reward model has another tokenizer or another chat template: responses are re-encoded with its "
        f"{template} template"
    )
    return Retokenized(tokenizer, Encoder(own, template), max_tokens=longest)
