"""Load the models of an on-policy run: policy, reference, critic and reward model, as far as it needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from alignment.errors import ArgumentError
from alignment.models.config import read_config, read_config_dict
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.attribute_heads import PLAIN_HEAD, StoredHead
from alignment.models.folders.hub import (
    CRITIC_FOLDER,
    check_fit,
    load_causal_lm,
    load_score_model,
    random_score_model,
    resolve_model_folder,
)
from alignment.models.tokenizer.tokenizer import Tokenizer, load_tokenizer
from alignment.rollout.rewards.user_code import load_function
from alignment.rollout.rollout_weights import check_rollout
from alignment.runs.adapters import adapt, frozen_base, trained_placement
from alignment.runs.frozen import FrozenInput, frozen_functions, frozen_model, frozen_part, frozen_tokenizer
from alignment.runs.launch import Launch
from alignment.runs.models import adopt, check_layout, freeze, resumed_folder, starting_tokenizer, warn_of_template
from alignment.runs.on_policy.algorithm import ChosenAlgorithm, critic_name
from alignment.runs.on_policy.reward_models import (
    LoadedReward,
    Sources,
    check_rewards,
    choose_sequences,
    frozen_rewards,
    load_rewards,
    reward_folders,
)
from alignment.runs.state import StatePart

_NEW_CRITIC = ScoreOptions(score_type="critic")


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Loaded models; ``reward`` is None if a function or service gives the rewards, ``reference`` and ``critic`` if the
    algorithm does not need them. With adapters the policy's base is the reference, and there is no other.
    """

    tokenizer: Tokenizer
    policy: CausalLM
    reference: CausalLM | None
    critic: ScoreModel | None
    reward: ScoreModel | None
    sequences: Any
    """Converts a rollout to the reward model's token ids."""
    rewards: Mapping[str, LoadedReward]
    """The score models among several reward sources, by the word under which they are logged."""
    judges: Mapping[str, LoadedReward]
    """The score models among the second judges, likewise."""
    frozen: StatePart
    """The inputs that a resumed run must find unchanged."""


class RoleFolders(NamedTuple):
    """The model folders of a fresh run; for the output folder of another run, the model in it."""

    actor: str
    critic: str | None
    reward: str | None

    @classmethod
    def of(cls, launch: Launch) -> RoleFolders:
        """Return the folders that the arguments name; that of the critic gives only its shape if it is random."""
        actor, reward = (
            launch.parsed.on_policy.actor_model_name_or_path,
            launch.parsed.reward_source.reward_model_name_or_path,
        )
        critic = critic_name(launch.parsed)
        has_own = critic is not None and launch.parsed.critic.reward_critic_model_name_or_path
        parts = (CRITIC_FOLDER, "reward", "policy") if has_own else ("policy",) if critic == actor else ("reward",)
        is_reward = critic in (actor, reward) and not has_own
        return cls(
            actor=str(resolve_model_folder(actor, parts=("policy",))),
            critic=critic and str(resolve_model_folder(critic, parts=parts, is_told=not is_reward)),
            reward=reward and str(resolve_model_folder(reward, parts=("reward",))),
        )


def load_roles(launch: Launch) -> Roles:
    """Load the models that the algorithm needs; trained ones come from the checkpoint when resuming."""
    source = launch.parsed.reward_source
    # Fail early: reading models and data takes minutes. The scorers load them again.
    sources, judges = Sources(source.entries), Sources.judges(launch)
    scoring = [*sources.entries, *judges.entries]
    named = [source.reward_function, *(entry.name for entry in scoring if entry.kind == "function")]
    functions = [load_function(name, launch.parsed.base_dir) for name in filter(None, named)]
    folders, models, judging = RoleFolders.of(launch), reward_folders(sources), reward_folders(judges)
    tokenizer = starting_tokenizer(launch, folders.actor)
    check_folders(launch, folders, tokenizer)
    check_rewards(launch, sources, models)
    check_rewards(launch, judges, judging)
    policy = resumed_folder(launch, "policy", folders.actor)
    critic = folders.critic and resumed_folder(launch, CRITIC_FOLDER, folders.critic)
    bases = find_bases(launch, folders)
    inputs = [*bases, *frozen_functions(functions)]
    frozen = frozen_part(
        launch,
        lambda: [
            *find_frozen(launch, folders, tokenizer),
            *frozen_rewards(launch, sources, models),
            *frozen_rewards(launch, judges, judging),
            *inputs,
        ],
    )
    options = {"dtype": launch.dtype, "placement": Placement.of(launch.topology)}
    head = StoredHead(source.value_head_prefix, source.reward_attribute_weights)
    trained = options | {"placement": trained_placement(launch)}
    has_reference = ChosenAlgorithm.of(launch.parsed).needs_reference and not bases
    roles = Roles(
        tokenizer=tokenizer,
        sequences=choose_sequences(launch, tokenizer, reward=folders.reward, actor=folders.actor)
        if folders.reward
        else None,
        # Before the critic, which may share the folder and accepts a missing score head.
        reward=freeze(load_score_model(folders.reward, stored_head=head, **options)) if folders.reward else None,
        rewards=load_rewards(launch, tokenizer, sources, models, actor=folders.actor),
        judges=load_rewards(launch, tokenizer, judges, judging, actor=folders.actor),
        policy=load_causal_lm(policy, tokenizer=tokenizer, **trained),
        reference=freeze(load_causal_lm(folders.actor, tokenizer=tokenizer, **options)) if has_reference else None,
        critic=start_critic(launch, critic, tokenizer, head, **trained) if critic else None,
        frozen=frozen,
    )
    for trained in filter(None, (roles.policy, roles.critic)):
        adopt(launch, trained, tokenizer)
    if bases:
        _adapt_trained(launch, roles, bases)
    return roles


def _adapt_trained(launch: Launch, roles: Roles, bases: Sequence[FrozenInput]) -> None:
    """Attach an adapter of its own to each trained model; ``bases`` are those of the policy and of the critic."""
    resumes = launch.checkpoint is not None
    adapt(launch, "policy", roles.policy, bases[0], folder="policy" if resumes else None, continues=True)
    if roles.critic is not None:
        adapt(launch, "critic", roles.critic, bases[1], folder=CRITIC_FOLDER if resumes else None, continues=False)


def find_bases(launch: Launch, folders: RoleFolders) -> list[FrozenInput]:
    """Return the bases of the policy and, if there is one, the critic; nothing without adapters."""
    critic = frozen_base(launch, "critic", folders.critic) if folders.critic else []
    return [*frozen_base(launch, "policy", folders.actor), *critic]


def find_frozen(launch: Launch, folders: RoleFolders, tokenizer: Tokenizer) -> list[FrozenInput]:
    """Return the inputs that must not change: the tokenizer, the reference, the reward model and its tokenizer."""
    world, template = launch.topology.world, launch.parsed.data.template
    found = frozen_tokenizer(launch.parsed.model.tokenizer_name_or_path or folders.actor, tokenizer, template)
    if ChosenAlgorithm.of(launch.parsed).needs_reference:
        found.append(frozen_model("the reference", folders.actor, world, launch.hashed))
    if folders.reward:
        own = load_tokenizer(folders.reward)
        found.append(frozen_model("the reward model", folders.reward, world, launch.hashed))
        found += frozen_tokenizer(folders.reward, own, template, owner=" of the reward model")
    return found


def check_folders(launch: Launch, folders: RoleFolders, tokenizer: Tokenizer) -> None:
    """Refuse models that do not fit the tokenizer, the length or the layout, before any weight is read."""
    if folders.critic:
        require_same_tokenizer(tokenizer, folders.critic)
    for folder in filter(None, (folders.actor, folders.critic)):
        config = check_fit(folder, tokenizer, max_length=launch.parsed.data.max_length)
        check_layout(launch, config, folder)
    warn_of_template(launch, folders.actor, read_config(folders.actor), tokenizer)
    if folders.reward:
        check_layout(launch, read_config(folders.reward), folders.reward)
    check_rollout(
        read_config(folders.actor),
        launch.topology.layout,
        eval_mode=launch.parsed.parallel.eval_mode,
        degree=launch.parsed.parallel.rollout_tensor_parallel_degree,
    )


def start_critic(
    launch: Launch, folder: str, tokenizer: Tokenizer, stored_head: StoredHead, **options: Any
) -> ScoreModel:
    """Return the critic: the checkpoint's when resuming, else what ``critic_init`` and its ``folder`` say.

    ``stored_head`` says how to read the scores of a reward model; ``options`` are dtype and placement.
    """
    critic, seed = launch.parsed.critic, launch.parsed.training.seed
    is_own = critic.reward_critic_model_name_or_path is not None or critic.critic_init == "reward_model"
    if launch.checkpoint is not None and not launch.parsed.adapter.lora:
        return load_critic(folder, **options)
    if not is_own and critic.critic_init == "scratch":
        return random_score_model(folder, _NEW_CRITIC, seed=seed, tokenizer=tokenizer, **options)
    if not is_own:
        return load_critic(folder, seed=seed, **options)
    return load_critic(folder, stored_head=stored_head if launch.checkpoint is None else PLAIN_HEAD, **options)


def load_critic(
    folder: str,
    *,
    stored_head: StoredHead = PLAIN_HEAD,
    seed: int | None = None,
    dtype: str = "float32",
    placement: Placement = WHOLE,
) -> ScoreModel:
    """Return the model in ``folder`` as a critic: its score head without normalisation, or a new one.

    Several scores are combined as those of the reward model are. A new head is drawn from ``seed`` or (None) zeros,
    which predict the constant 0.
    """
    saved = ScoreOptions.from_dict(read_config_dict(folder))
    options = ScoreOptions(score_type="critic", score_bias=saved.score_bias)
    return load_score_model(
        folder,
        dtype=dtype,
        options=options,
        new_score_head=True,
        stored_head=stored_head if saved.num_labels > 1 else stored_head._replace(weights=None),
        seed=seed,
        placement=placement,
    )


def require_same_tokenizer(tokenizer: Tokenizer, critic: str) -> None:
    """Refuse a critic with another vocabulary: it reads the policy's token ids."""
    other = load_tokenizer(critic)
    if other.fingerprint() != tokenizer.fingerprint():
        raise ArgumentError(
            f"the critic in {critic} has another tokenizer ({len(other)} tokens) than the policy ({len(tokenizer)}): "
            "it reads the policy's token ids, so both must be the same. Name a critic of the policy's family in "
            "reward_critic_model_name_or_path (the reward model itself may differ)"
        )
