"""Load reward models, and decide how rollouts are passed to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.arguments.rewards.entries import RewardEntry
from alignment.data.encode import Encoder
from alignment.data.templates import template_name
from alignment.errors import ArgumentError, ModelFolderError, UserError
from alignment.models.config import read_config, read_config_dict
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import check_fit, load_score_model, resolve_model_folder
from alignment.models.folders.sequence_ends import padding_warning, sequence_ends
from alignment.models.tokenizer.tokenizer import Tokenizer, load_tokenizer
from alignment.models.tokenizer.trained_template import describe_template, template_warning
from alignment.rollout.rewards.retokenize import BeforePadding, Retokenized, SameTokens
from alignment.runs.datasets import encode_options
from alignment.runs.frozen import FrozenInput, frozen_model, frozen_tokenizer
from alignment.runs.launch import Launch
from alignment.runs.models import check_layout, freeze, warn_of_template
from alignment.telemetry import log


class LoadedReward(NamedTuple):
    """A score model with its way to read rollouts."""

    model: ScoreModel
    sequences: Any
    """Converts a rollout to the model's token ids."""


class Sources(NamedTuple):
    """The sources of one key."""

    entries: Sequence[RewardEntry]
    title: str = "the reward source"
    """What messages call one of them."""

    @classmethod
    def judges(cls, launch: Launch) -> Sources:
        """Return the second judges; none in a run that does not evaluate."""
        found = launch.parsed.reward_source.judges if launch.parsed.training.evaluates else ()
        return cls(found, "the second judge")


def reward_folders(sources: Sources) -> dict[str, str]:
    """Return the folder of each score model of ``sources``, by the word under which it is logged."""
    models = [entry for entry in sources.entries if entry.is_model]
    return {entry.log_as: str(resolve_model_folder(entry.name, parts=("reward",))) for entry in models}


def check_rewards(launch: Launch, sources: Sources, folders: Mapping[str, str]) -> None:
    """Refuse score models that do not fit the layout, or whose config.json contradicts the kind of the source."""
    entries = {entry.log_as: entry for entry in sources.entries}
    for name, folder in folders.items():
        check_layout(launch, read_config(folder), folder)
        _check_kind(entries[name], folder)
        try:
            load_tokenizer(folder)
        except UserError as error:
            raise ModelFolderError(f"{sources.title} {name} has a tokenizer that cannot be used: {error}") from error


def load_rewards(
    launch: Launch, tokenizer: Tokenizer, sources: Sources, folders: Mapping[str, str], *, actor: str
) -> dict[str, LoadedReward]:
    """Return the frozen score models in ``folders`` by name; ``actor`` is the policy's folder."""
    source = launch.parsed.reward_source
    entries = {entry.log_as: entry for entry in sources.entries}
    head = StoredHead(source.value_head_prefix, source.reward_attribute_weights)
    options = {"dtype": launch.dtype, "placement": Placement.of(launch.topology), "stored_head": head}
    return {
        name: LoadedReward(
            model=freeze(load_score_model(folder, **options)),
            sequences=choose_sequences(launch, tokenizer, reward=folder, actor=actor, template=entries[name].template),
        )
        for name, folder in folders.items()
    }


def frozen_rewards(launch: Launch, sources: Sources, folders: Mapping[str, str]) -> list[FrozenInput]:
    """Return the models and tokenizers of the sources, which a resumed run must find unchanged."""
    found = []
    for name, folder in folders.items():
        found.append(frozen_model(f"{sources.title} {name}", folder, launch.topology.world))
        owner = f" of {sources.title} {name}"
        found += frozen_tokenizer(folder, load_tokenizer(folder), launch.parsed.data.template, owner=owner)
    return found


def _check_kind(entry: RewardEntry, folder: str) -> None:
    score_type = ScoreOptions.from_dict(read_config_dict(folder)).score_type
    if score_type == "cost" and entry.kind == "model":
        raise ArgumentError(
            f"{folder} is a cost model (score_type in its config.json): higher is worse, so its score must be "
            'subtracted. Write {"name": "' + entry.name + '", "kind": "cost"} in reward_sources'
        )


def choose_sequences(
    launch: Launch,
    tokenizer: Tokenizer,
    *,
    reward: str,
    actor: str,
    template: str | None = None,
    what: str = "reward model",
) -> Any:
    """Return how rollouts are passed to the model in ``reward``: unchanged, or in its own tokens.

    ``template`` is the model's, if it is not that of the run; messages call the model ``what``.
    """
    source = launch.parsed.reward_source
    own, config = load_tokenizer(reward), read_config(reward)
    line = padding_warning(reward, config, own)
    if line is not None and not source.score_before_padding:
        log.warn(line)
    changed = template not in (None, launch.parsed.data.template)
    wanted = template if changed else None
    sequences = _in_its_tokens(launch, tokenizer, own, (reward, actor), template=wanted, what=what)
    if not source.score_before_padding:
        return sequences
    if config.pad_token_id is None:
        raise ArgumentError(f"score_before_padding=true, but config.json in {reward} names no pad_token_id")
    return BeforePadding(sequences, config.pad_token_id)


def _in_its_tokens(
    launch: Launch, tokenizer: Tokenizer, own: Tokenizer, folders: tuple[str, str], *, template: str | None, what: str
) -> Any:
    """Return the conversion of rollouts to ids of the reward model, whose tokenizer is ``own``.

    ``folders`` are those of the reward model and of the policy; ``template`` is one that differs from the run's.
    """
    (reward, actor), data = folders, launch.parsed.data
    same_template = data.template != "tokenizer" or own.chat_template in (None, tokenizer.chat_template)
    same_template = same_template and template is None
    # Rollouts may contain ids beyond the tokenizer; a smaller embedding than the policy's lacks them.
    is_wide = read_config(reward).vocab_size >= read_config(actor).vocab_size
    if own.fingerprint() == tokenizer.fingerprint() and same_template and is_wide:
        config = check_fit(reward, own, max_length=data.max_length)
        warn_of_template(launch, reward, config, tokenizer)
        end = Encoder(tokenizer, encode_options(launch).template).end_id
        return SameTokens(sequence_ends(read_config(actor), tokenizer, end), end)
    config = check_fit(reward, own, max_length=1)
    if template is None:
        template = data.template if data.template != "tokenizer" or own.chat_template else "none"
    log.info(
        f"the {what} has another tokenizer, another chat template or a smaller vocabulary: responses are "
        f"re-encoded with its template ({template})"
    )
    line = template_warning(reward, config, own, describe_template(template, own))
    if line is not None:
        log.warn(line)
    return Retokenized(tokenizer, Encoder(own, template_name(template)), max_tokens=config.longest_sequence)
