"""Load the models of an on-policy run, as far as it needs them: policy, reference, reward and cost model, critics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from alignment.arguments.roles.placement import ROLLOUT
from alignment.errors import ArgumentError
from alignment.models.config import read_config, read_config_dict
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.attribute_heads import PLAIN_HEAD, StoredHead
from alignment.models.folders.hub import (
    check_fit,
    load_causal_lm,
    load_score_model,
    random_score_model,
    resolve_model_folder,
)
from alignment.models.folders.run_models import CRITIC_FOLDERS
from alignment.models.tokenizer.tokenizer import Tokenizer, load_tokenizer
from alignment.rollout.reference_service import ReferenceClient
from alignment.rollout.rewards.user_code import load_function
from alignment.rollout.rollout_weights import check_rollout
from alignment.runs.adapters import adapt, frozen_base, trained_placement
from alignment.runs.frozen import FrozenInput, frozen_functions, frozen_model, frozen_part, frozen_tokenizer
from alignment.runs.launch import Launch
from alignment.runs.models import adopt, check_layout, freeze, resumed_folder, starting_tokenizer, warn_of_template
from alignment.runs.on_policy.algorithm import ChosenAlgorithm, cost_names, critic_name
from alignment.runs.on_policy.reference import find_reference_client
from alignment.runs.on_policy.reward_models import (
    LoadedReward,
    Sources,
    check_kind,
    check_rewards,
    choose_sequences,
    frozen_rewards,
    load_reward,
    load_rewards,
    reward_folders,
    tell_readiness,
)
from alignment.runs.on_policy.role_parts import role_parts
from alignment.runs.reference_start import frozen_copy, is_policys_start
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
    reference_client: ReferenceClient | None
    """What gives the reference's log-probs in place of ``reference``."""
    critic: ScoreModel | None
    reward: LoadedReward | None
    rewards: Mapping[str, LoadedReward]
    """The models among several reward sources, by the word under which they are logged."""
    judges: Mapping[str, LoadedReward]
    """The models among the second judges, likewise."""
    frozen: StatePart
    """The inputs that a resumed run must find unchanged."""
    cost: LoadedReward | None
    """None, like its critic, if the algorithm needs no cost."""
    cost_critic: ScoreModel | None

    @property
    def critics(self) -> dict[str, ScoreModel]:
        """The critics that the run has, by role."""
        return {name: getattr(self, name) for name in CRITIC_FOLDERS if getattr(self, name) is not None}


class RoleFolders(NamedTuple):
    """The model folders of a fresh run; for the output folder of another run, the model in it."""

    actor: str
    critic: str | None
    reward: str | None
    cost: str | None = None
    cost_critic: str | None = None

    @property
    def critics(self) -> dict[str, str]:
        """The folders of the critics that the run has, by role."""
        return {name: getattr(self, name) for name in CRITIC_FOLDERS if getattr(self, name) is not None}

    @classmethod
    def of(cls, launch: Launch) -> RoleFolders:
        """Return the folders that the arguments name; that of the critic gives only its shape if it is random."""
        actor, reward = (
            launch.parsed.on_policy.actor_model_name_or_path,
            launch.parsed.reward_source.reward_model_name_or_path,
        )
        critic = critic_name(launch.parsed)
        has_own = critic is not None and launch.parsed.critic.reward_critic_model_name_or_path
        is_reward = critic in (actor, reward) and not has_own
        parts = role_parts(launch.parsed)
        return cls(
            actor=str(resolve_model_folder(actor, parts=parts["policy"])),
            critic=critic and str(resolve_model_folder(critic, parts=parts["critic"], is_told=not is_reward)),
            reward=reward and str(resolve_model_folder(reward, parts=parts["reward"])),
            **cls._of_cost(launch),
        )

    @staticmethod
    def _of_cost(launch: Launch) -> dict[str, str]:
        """Return the folders of the cost model and its critic, by role; nothing if the algorithm needs no cost."""
        cost, critic = cost_names(launch.parsed)
        if cost is None:
            return {}
        parts = role_parts(launch.parsed)
        return {
            "cost": str(resolve_model_folder(cost, parts=parts["cost"])),
            "cost_critic": str(resolve_model_folder(critic, parts=parts["cost_critic"], is_told=critic != cost)),
        }


def _load_functions(launch: Launch, sources: Sources, judges: Sources) -> list[Callable[..., Any]]:
    alone = launch.parsed.reward_source.reward_function
    named = [("reward_function", alone)] if alone else []
    for key, entries in (("reward_sources", sources.entries), ("eval_reward", judges.entries)):
        named += [(key, entry.name) for entry in entries if entry.kind == "function"]
    return [load_function(name, launch.parsed.base_dir, key=key) for key, name in named]


def load_roles(launch: Launch) -> Roles:
    """Load the models that the algorithm needs; trained ones come from the checkpoint when resuming."""
    source = launch.parsed.reward_source
    # Fail early: reading models and data takes minutes. The scorers load them again.
    sources, judges = Sources(source.entries), Sources.judges(launch)
    functions = _load_functions(launch, sources, judges)
    folders, models, judging = RoleFolders.of(launch), reward_folders(sources), reward_folders(judges)
    tokenizer = starting_tokenizer(launch, folders.actor)
    check_folders(launch, folders, tokenizer)
    if folders.reward:
        check_kind(source.model_entry, folders.reward)
        tell_readiness(folders.reward)
    check_rewards(launch, sources, models)
    check_rewards(launch, judges, judging)
    policy = resumed_folder(launch, "policy", folders.actor)
    critics = {name: resumed_folder(launch, CRITIC_FOLDERS[name], place) for name, place in folders.critics.items()}
    bases = find_bases(launch, folders)
    client, served = find_reference_client(launch, tokenizer)
    frozen = frozen_part(
        launch,
        lambda: [
            *find_frozen(launch, folders, tokenizer),
            *frozen_rewards(launch, sources, models),
            *frozen_rewards(launch, judges, judging),
            *(*bases, *frozen_functions(functions), *served),
        ],
    )
    head = StoredHead(source.value_head_prefix, source.reward_attribute_weights)
    trained_form = partial(form, launch, is_trained=True)
    has_reference = ChosenAlgorithm.of(launch.parsed).needs_reference and not bases and client is None
    trained = load_causal_lm(policy, tokenizer=tokenizer, **trained_form("policy"))
    roles = Roles(
        tokenizer=tokenizer,
        # Before the critic, which may share the folder and accepts a missing score head.
        reward=folders.reward
        and load_reward(launch, tokenizer, source.model_entry, folder=folders.reward, actor=folders.actor),
        rewards=load_rewards(launch, tokenizer, sources, models, actor=folders.actor),
        judges=load_rewards(launch, tokenizer, judges, judging, actor=folders.actor),
        policy=trained,
        reference=load_reference(launch, folders.actor, tokenizer, trained) if has_reference else None,
        reference_client=client,
        critic=start_critic(launch, critics["critic"], tokenizer, head, **trained_form("critic")) if critics else None,
        frozen=frozen,
        cost=load_cost(launch, folders, tokenizer, **form(launch, "cost")) if folders.cost else None,
        cost_critic=load_cost_critic(launch, critics, **trained_form("cost_critic")) if folders.cost else None,
    )
    for model in (roles.policy, *roles.critics.values()):
        adopt(launch, model, tokenizer)
    if bases:
        _adapt_trained(launch, roles, bases)
    return roles


def form(launch: Launch, role: str, *, is_trained: bool = False) -> dict[str, Any]:
    """Return the dtype of the model of ``role``, and what this process holds of it."""
    placement = trained_placement(launch, role) if is_trained else Placement.of(launch.ranks_of(role).topology)
    return {"dtype": launch.dtype, "placement": placement}


def _adapt_trained(launch: Launch, roles: Roles, bases: Sequence[FrozenInput]) -> None:
    """Attach an adapter of its own to each trained model; ``bases`` are those of the policy and of the critics."""
    resumes = launch.checkpoint is not None
    adapt(launch, "policy", roles.policy, bases[0], folder="policy" if resumes else None, continues=True)
    for (name, critic), base in zip(roles.critics.items(), bases[1:], strict=True):
        adapt(launch, name, critic, base, folder=CRITIC_FOLDERS[name] if resumes else None, continues=False)


def find_bases(launch: Launch, folders: RoleFolders) -> list[FrozenInput]:
    """Return the bases of the policy and of the critics; nothing without adapters."""
    trained = {"policy": folders.actor, **folders.critics}
    return [base for name, place in trained.items() for base in frozen_base(launch, name.replace("_", " "), place)]


def find_frozen(launch: Launch, folders: RoleFolders, tokenizer: Tokenizer) -> list[FrozenInput]:
    """Return the inputs that must not change: tokenizer, reference, reward and cost model and their tokenizers."""
    world, template = launch.topology.world, launch.parsed.data.template
    found = frozen_tokenizer(launch.parsed.model.tokenizer_name_or_path or folders.actor, tokenizer, template)
    if ChosenAlgorithm.of(launch.parsed).needs_reference and not launch.parsed.reference_server.is_given:
        found.append(frozen_model("the reference", folders.actor, world, launch.hashed))
    for name, place in (("reward", folders.reward), ("cost", folders.cost)):
        if place:
            found.append(frozen_model(f"the {name} model", place, world, launch.hashed))
            found += frozen_tokenizer(place, load_tokenizer(place), template, owner=f" of the {name} model")
    return found


def check_folders(launch: Launch, folders: RoleFolders, tokenizer: Tokenizer) -> None:
    """Refuse models that do not fit the tokenizer, the length or the layout, before any weight is read."""
    require_signs(folders)
    for name, folder in folders.critics.items():
        require_same_tokenizer(tokenizer, folder, name)
    for role, folder in {"policy": folders.actor, **folders.critics}.items():
        config = check_fit(folder, tokenizer, max_length=launch.parsed.data.max_length)
        check_layout(launch, config, folder, role)
    for role in ("reference", ROLLOUT):
        check_layout(launch, read_config(folders.actor), folders.actor, role)
    warn_of_template(launch, folders.actor, read_config(folders.actor), tokenizer)
    for role, folder in (("reward", folders.reward), ("cost", folders.cost)):
        if folder:
            check_layout(launch, read_config(folder), folder, role)
    check_rollout(
        read_config(folders.actor),
        launch.ranks_of("policy").layout,
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


def load_reference(launch: Launch, folder: str, tokenizer: Tokenizer, policy: CausalLM) -> CausalLM:
    """Return the frozen reference: the model in ``folder``, which ``policy`` is before its first update."""
    own, other = (launch.ranks_of(role) for role in ("reference", "policy"))
    same = (own.ranks, own.layout) == (other.ranks, other.layout)
    obstacle = None if same else "with placement the reference is on other ranks than the policy, or cut otherwise"
    if is_policys_start(launch, obstacle, how="its weights are copied from the policy"):
        return frozen_copy(policy, **form(launch, "reference"))
    return freeze(load_causal_lm(folder, tokenizer=tokenizer, **form(launch, "reference")))


def load_cost(launch: Launch, folders: RoleFolders, tokenizer: Tokenizer, **options: Any) -> LoadedReward:
    """Return the frozen cost model; ``options`` are dtype and placement."""
    head = StoredHead(launch.parsed.reward_source.value_head_prefix, None)
    sequences = choose_sequences(launch, tokenizer, reward=folders.cost, actor=folders.actor, what="cost model")
    return LoadedReward(freeze(load_score_model(folders.cost, stored_head=head, **options)), sequences)


def load_cost_critic(launch: Launch, critics: Mapping[str, str], **options: Any) -> ScoreModel:
    """Return the critic of the cost, given the folders of the critics by role; ``options`` are dtype and placement."""
    head = StoredHead(launch.parsed.reward_source.value_head_prefix, None)
    stored = head if launch.checkpoint is None else PLAIN_HEAD
    return load_critic(critics["cost_critic"], stored_head=stored, **options)


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


def require_signs(folders: RoleFolders) -> None:
    """Refuse a cost model that is a reward model, and the reverse: with the wrong sign the run would seek harm."""
    wanted = {"cost": "objective cost: above 0 is unsafe", "reward": "objective reward: higher is better"}
    for role, meaning in wanted.items():
        folder = getattr(folders, role)
        found = ScoreOptions.from_dict(read_config_dict(folder)).score_type if folder else role
        if found != role and "cost" in (found, role):
            raise ArgumentError(
                f"{role}_model_name_or_path={folder}: its config.json makes it a {found} model (score_type {found!r}), "
                f"and here a {role} model is needed (score_type {role!r}, trained with {meaning}). Name another model; "
                "if only the entry is wrong or missing, correct it"
            )


def require_same_tokenizer(tokenizer: Tokenizer, critic: str, role: str = "critic") -> None:
    """Refuse a critic with another vocabulary: it reads the policy's token ids."""
    other, scores = load_tokenizer(critic), "cost" if role == "cost_critic" else "reward"
    key = f"{scores}_critic_model_name_or_path"
    if other.fingerprint() != tokenizer.fingerprint():
        raise ArgumentError(
            f"the {role.replace('_', ' ')} in {critic} has another tokenizer ({len(other)} tokens) than the policy "
            f"({len(tokenizer)}): it reads the policy's token ids, so both must be the same. Name a critic of the "
            f"policy's family in {key} (the {scores} model itself may differ)"
        )
