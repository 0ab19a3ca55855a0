"""Load reward models, and decide how rollouts are passed to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.architecture.config_rules import COMPARISON_KEY
from alignment.architecture.decoder_config import DecoderConfig
from alignment.arguments.rewards.entries import RewardEntry
from alignment.data.comparison import PairQuestion
from alignment.data.encode import Encoder
from alignment.data.templates import template_name
from alignment.errors import ArgumentError, ModelFolderError, UserError
from alignment.models.config import read_config, read_config_dict
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import check_fit, load_causal_lm, load_score_model, resolve_model_folder
from alignment.models.folders.sequence_ends import padding_warning, sequence_ends
from alignment.models.tokenizer.tokenizer import Tokenizer, load_tokenizer
from alignment.models.tokenizer.trained_template import describe_template, template_warning
from alignment.rollout.rewards.pairwise_scores import PairwiseReader
from alignment.rollout.rewards.retokenize import BeforePadding, Retokenized, SameTokens
from alignment.runs.datasets import encode_options
from alignment.runs.frozen import FrozenInput, frozen_model, frozen_tokenizer
from alignment.runs.launch import Launch
from alignment.runs.models import check_layout, freeze, warn_of_template
from alignment.telemetry import log
from alignment.telemetry.report.readiness import FILE as READINESS_FILE


class LoadedReward(NamedTuple):
    """A score model, or a language model that compares, with its way to read rollouts."""

    model: ScoreModel | CausalLM
    sequences: Any
    """Converts a rollout to the model's token ids; a ``PairwiseReader`` if it compares."""

    @property
    def scoring(self) -> ScoreModel | None:
        """The model, if it has statistics and options of its scores."""
        return self.model if isinstance(self.model, ScoreModel) else None


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
    """Return the folder of each model of ``sources``, by the word under which it is logged."""
    models = [entry for entry in sources.entries if entry.is_model]
    return {entry.log_as: str(resolve_model_folder(entry.name, parts=("reward",))) for entry in models}


def check_rewards(launch: Launch, sources: Sources, folders: Mapping[str, str]) -> None:
    """Refuse models that do not fit the layout, or whose config.json contradicts the kind of the source; say whether
    they should be trusted.
    """
    entries = {entry.log_as: entry for entry in sources.entries}
    for name, folder in folders.items():
        check_layout(launch, read_config(folder), folder, reward_role(launch, name))
        check_kind(entries[name], folder)
        tell_readiness(folder)
        try:
            load_tokenizer(folder)
        except UserError as error:
            raise ModelFolderError(f"{sources.title} {name} has a tokenizer that cannot be used: {error}") from error


def load_rewards(
    launch: Launch, tokenizer: Tokenizer, sources: Sources, folders: Mapping[str, str], *, actor: str
) -> dict[str, LoadedReward]:
    """Return the frozen models in ``folders`` by name; ``actor`` is the policy's folder."""
    entries, kind = {entry.log_as: entry for entry in sources.entries}, sources.title.removeprefix("the ")
    return {
        name: load_reward(launch, tokenizer, entries[name], folder=folder, actor=actor, what=f"{kind} {name}")
        for name, folder in folders.items()
    }


def reward_role(launch: Launch, name: str) -> str:
    """Return the role of the score model that is logged as ``name``: its own if ``placement`` has it, else reward."""
    return name if name in launch.roles else "reward"


def load_reward(
    launch: Launch,
    tokenizer: Tokenizer,
    entry: RewardEntry,
    *,
    folder: str,
    actor: str,
    what: str = "reward model",
) -> LoadedReward:
    """Return the frozen model of ``entry`` in ``folder``, which messages call ``what``; ``actor`` is the policy's
    folder.
    """
    who = launch.ranks_of(reward_role(launch, entry.log_as))
    options: dict[str, Any] = {"dtype": launch.dtype, "placement": Placement.of(who.topology)}
    if entry.kind == "pairwise":
        reader = _read_comparisons(launch, tokenizer, entry, folder, what=what)
        return LoadedReward(freeze(load_causal_lm(folder, **options)), reader)
    source = launch.parsed.reward_source
    head = StoredHead(source.value_head_prefix, source.reward_attribute_weights)
    sequences = choose_sequences(launch, tokenizer, reward=folder, actor=actor, template=entry.template, what=what)
    return LoadedReward(freeze(load_score_model(folder, stored_head=head, **options)), sequences)


def _read_comparisons(
    launch: Launch, tokenizer: Tokenizer, entry: RewardEntry, folder: str, *, what: str
) -> PairwiseReader:
    """Return how responses are written as comparisons for the model in ``folder``."""
    own = load_tokenizer(folder)
    config = check_fit(folder, own, max_length=1)
    question = PairQuestion.from_record({**(config.comparison or {}), **entry.options})
    template = _choose_template(launch, own, config, folder, asked=entry.template)
    encoder = Encoder(own, template_name(template))
    try:
        return PairwiseReader(question, tokenizer, own, encoder, max_tokens=config.longest_sequence, name=what)
    except ArgumentError as error:
        raise ArgumentError(
            f"{entry.log_as}, {folder}: {error}. How its pairs are written stands in the options of its entry in "
            'reward_sources or eval_reward: {"options": {"template": ..., "turn": ..., "letters": [...]}}'
        ) from error


def frozen_rewards(launch: Launch, sources: Sources, folders: Mapping[str, str]) -> list[FrozenInput]:
    """Return the models and tokenizers of the sources, which a resumed run must find unchanged."""
    found = []
    for name, folder in folders.items():
        found.append(frozen_model(f"{sources.title} {name}", folder, launch.topology.world))
        owner = f" of {sources.title} {name}"
        found += frozen_tokenizer(folder, load_tokenizer(folder), launch.parsed.data.template, owner=owner)
    return found


def tell_readiness(folder: str) -> None:
    """Say whether the evaluation of the run that trained the model in ``folder`` found it ready."""
    path = Path(folder).parent / READINESS_FILE
    if Path(folder).name != "reward" or not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        trust, line = found["trust"], found["line"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # written by something else: the model is judged by its weights alone
    say = log.info if trust == "yes" else log.warn
    say(f"{folder}, by its own evaluation ({path}): {line}")


def check_kind(entry: RewardEntry, folder: str) -> None:
    """Refuse a model whose config.json contradicts the kind of ``entry``."""
    if entry.kind == "model" and read_config(folder).comparison is not None:
        raise ArgumentError(
            f"{folder} is a pairwise model ({COMPARISON_KEY} in its config.json), which compares two responses. Write "
            '{"name": "' + entry.name + '", "kind": "pairwise"} in reward_sources'
        )
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
    template = _choose_template(launch, own, config, reward, asked=template)
    log.info(
        f"the {what} has another tokenizer, another chat template or a smaller vocabulary: responses are "
        f"re-encoded with its template ({template})"
    )
    encoder = Encoder(own, template_name(template))
    return Retokenized(tokenizer, encoder, max_tokens=config.longest_sequence, name=what)


def _choose_template(launch: Launch, own: Tokenizer, config: DecoderConfig, folder: str, *, asked: str | None) -> str:
    """Return the template of a model with the tokenizer ``own``: the one ``asked`` for, else that of the run, if the
    tokenizer has it; warn if the model was trained with another one.
    """
    wanted = launch.parsed.data.template
    template = asked or (wanted if wanted != "tokenizer" or own.chat_template else "none")
    line = template_warning(folder, config, own, describe_template(template, own))
    if line is not None:
        log.warn(line)
    return template
