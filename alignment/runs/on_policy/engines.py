"""Choose the engine that generates rollouts, and the layout of its weights."""

from __future__ import annotations

from typing import NamedTuple

from alignment.architecture.cuts import parts_of_rank
from alignment.architecture.decoder_config import DecoderConfig
from alignment.arguments.keys.generation import GenerationArguments
from alignment.arguments.parsed import Parsed
from alignment.device.host import num_threads
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import Engine, GenerationOptions
from alignment.generation.engine_placement import EnginePlacement
from alignment.generation.fused.drafts import PreviousAnswers
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import AUTO, ROWS_ON_DEVICE, FusedSettings, full_length_bytes
from alignment.generation.kernel_choice import device_kernels
from alignment.loops.rollout_ahead import RolloutAhead
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.models.folders.sequence_ends import sequence_ends, with_stop_tokens
from alignment.parallel.comms.group import Group
from alignment.parallel.roles import RoleWork, share_work
from alignment.parallel.sharding.partition import MAX_STAGE
from alignment.rollout.merging_engine import MergingEngine
from alignment.rollout.placed_engine import PlacedEngine
from alignment.rollout.rollout_weights import RolloutWeights, rollout_parts, rollout_placement
from alignment.rollout.team_engine import TeamEngine
from alignment.runs.launch import Launch
from alignment.runs.on_policy.algorithm import ChosenAlgorithm
from alignment.runs.on_policy.prompts import RowPlan
from alignment.runs.on_policy.roles import Roles
from alignment.telemetry import log
from alignment.training.learner import Learner

_OF_FUSED_ENGINE = ("rollout_weight_type", "rollout_kv_type", "rollout_kv_memory", "speculative_tokens")


class EngineRows(NamedTuple):
    """What an engine samples at a time, and with which ids."""

    total: int
    """Sequences of one call, over all replicas."""
    at_once: int
    """The most that a replica generates at once; -1: all of its share."""
    usable: int
    """The size of the smallest vocabulary of those who read the ids."""
    previous: PreviousAnswers | None = None
    """See ``open_engine``."""


class EngineLines(NamedTuple):
    """What the log says of an engine."""

    description: str
    warnings: tuple[str, ...] = ()

    def log(self) -> None:
        """Log the lines in the main process."""
        for line in self.warnings if log.is_main() else ():
            log.warn(line)
        log.info(self.description)


def previous_answers(parsed: Parsed) -> PreviousAnswers | None:
    """Return what holds the answers that drafts come from, empty; None if none do."""
    engine = parsed.engine
    return PreviousAnswers() if engine.speculative_tokens and engine.speculative_method == "previous" else None


def build_engine(
    launch: Launch, roles: Roles, policy: Learner, plan: RowPlan, *, previous: PreviousAnswers | None
) -> Engine:
    """Return the rollout engine of an on-policy run, which drafts from ``previous``; see ``open_engine``."""
    # The critics read the same ids, and their embedding may be smaller.
    readers = (roles.policy, *roles.critics.values())
    rows = EngineRows(
        total=plan.prompts_per_iteration * plan.samples_per_prompt,
        at_once=launch.parsed.on_policy.per_device_rollout_batch_size,
        usable=min(model.config.vocab_size for model in readers),
    )
    shows_plan = launch.parsed.parallel.distributed_dry_run
    return open_engine(launch, policy, rows, previous=previous, shows_plan=shows_plan)


def open_engine(
    launch: Launch,
    policy: Learner,
    rows: EngineRows,
    *,
    previous: PreviousAnswers | None = None,
    shows_plan: bool = False,
) -> Engine:
    """Return the engine that samples from ``policy`` in the layout that ``eval_mode`` names, and log which it is.

    ``previous`` holds the answers of all replicas that drafts come from, on every process (None: no drafts, or a
    replica's own). ``shows_plan``: print which process sends which weights to which.
    """
    rows = rows._replace(previous=previous)
    if launch.roles and launch.topology.world_size > 1:
        return _open_placed(launch, policy, rows, shows_plan=shows_plan)
    parsed, topology, model = launch.parsed, launch.topology, policy.runner.model
    config = model.config
    mode = {"eval_mode": parsed.parallel.eval_mode, "degree": parsed.parallel.rollout_tensor_parallel_degree}
    placement = rollout_placement(topology, config, **mode)
    rows = rows._replace(total=-(-rows.total // placement.replicas.size))
    inner, told = _build_inner(launch, model, placement.engine, rows, world=topology.world)
    told.log()
    adapter = model.adapter
    if adapter is not None:
        inner = MergingEngine(inner, adapter)
    if topology.world_size == 1:
        return inner
    held, weights = policy.kept_parts(), None
    if mode["eval_mode"] or held is not None:
        parts = list((held or model.parts).values())
        wanted = rollout_parts(config, topology.layout, **mode)
        if adapter is not None:
            wanted = [adapter.with_factors(parts) for parts in wanted]
        weights = RolloutWeights(topology, parts, wanted, dtype=launch.dtype)
        if shows_plan:
            weights.show()
    return TeamEngine(inner, placement.replicas, config=config, weights=weights, previous=previous)


def build_ahead(launch: Launch, engine: Engine, policy: Learner) -> RolloutAhead:
    """Return what holds the rollout sampled ahead; log whether it is sampled beside the updates."""
    needs_greedy = ChosenAlgorithm.of(launch.parsed).spec.needs_greedy
    is_on = launch.parsed.on_policy.rollout_ahead > 0
    obstacle = _obstacle_beside_updates(launch, engine, policy) if is_on else None
    if is_on:
        order = "beside the updates, in a thread"
        if obstacle is not None:
            order = f"before the updates, which saves no time ({obstacle})"
        log.info(f"rollout_ahead=1: the next rollout is sampled {order}")
    return RolloutAhead(is_on=is_on, overlaps=is_on and obstacle is None, needs_greedy=needs_greedy)


def _obstacle_beside_updates(launch: Launch, engine: Engine, policy: Learner) -> str | None:
    """Return why ``engine`` cannot generate in a thread while ``policy`` is updated, None if it can.

    It needs weights of its own and kernels that leave Python's lock to others, and must not call collective operations.
    """
    inner = engine.inner if isinstance(engine, MergingEngine) else engine
    obstacles = {
        "several processes roll out and update in one fixed order": launch.topology.world_size > 1,
        "both use the GPU": launch.topology.device != "cpu",
        "the policy is offloaded": policy.offloaded_model is not None,
        "the engine reads the policy's own weights": not isinstance(inner, FusedEngine),
    }
    return next((why for why, holds in obstacles.items() if holds), None)


def _open_placed(launch: Launch, policy: Learner, rows: EngineRows, *, shows_plan: bool) -> PlacedEngine:
    """Return the engine of a run with ``placement``, which generates on the rollout ranks in their layout."""
    who, trained, model = launch.ranks_of("rollout"), launch.ranks_of("policy"), policy.runner.model
    config, adapter, inner, weights, told = model.config, model.adapter, None, None, None
    if who.topology is not None:
        groups = {"tensor": who.topology.tensor, "pipeline": who.topology.pipeline}
        layers = tuple(Placement.of(who.topology).layers(config.num_hidden_layers))
        rows = rows._replace(total=-(-rows.total // who.layout.batch))
        seat = EnginePlacement(layers=layers, experts=who.layout.expert, **groups)
        inner, told = _build_inner(launch, model, seat, rows, world=who.topology.world)
        if adapter is not None:
            inner = MergingEngine(inner, adapter)
        if who.topology.world_size > 1:
            inner = TeamEngine(inner, who.topology.batch, config=config)
    # The main process, which writes the log, may have no engine.
    share_work([RoleWork(who, lambda: told)])[0].log()
    if who is not trained or trained.layout.sharding_stage == MAX_STAGE:
        held = (policy.kept_parts() or model.parts).values()
        seats = {rank: parts_of_rank(config, "causal", who.layout, index) for index, rank in enumerate(who.ranks)}
        wanted = [seats.get(rank, []) for rank in range(launch.topology.world_size)]
        if adapter is not None:
            wanted = [adapter.with_factors(parts) for parts in wanted]
        weights = RolloutWeights(launch.topology, list(held), wanted, dtype=launch.dtype)
        if shows_plan:
            weights.show()
    return PlacedEngine(inner, who, weights=weights, previous=rows.previous)


def _build_inner(
    launch: Launch, model: CausalLM, placement: EnginePlacement, rows: EngineRows, *, world: Group
) -> tuple[Engine, EngineLines]:
    """Return the engine of one replica among ``world``, which generates ``rows.total`` responses at a time, and what
    to say of it.

    It samples from the whole vocabulary, including ids without a token (padding of the embedding). Log-probs are over
    all ids too: if some could never be drawn, the policy could gain negative KL by moving probability there.
    """
    parsed, limit = launch.parsed, rows.at_once
    kernels, obstacle = None, "use_fusemt is false"
    if parsed.engine.use_fusemt:
        kernels = device_kernels()
        own = kernels.obstacle(model.config, placement)
        own = own or kernels.length_obstacle(model.config, parsed.data.max_length)
        obstacle = next((o for o in world.gather_objects(own, "engine") if o is not None), None)
    if obstacle is not None:
        warnings = unused_keys(parsed, obstacle) if parsed.engine.use_fusemt else []
        told = EngineLines(f"rollouts: eager engine ({obstacle})", tuple(warnings))
        most = limit if limit > 0 else None
        return EagerEngine(model, placement=placement, max_batch_rows=most, usable_vocab_size=rows.usable), told
    slots = min(rows.total, limit) if limit > 0 else rows.total
    settings = fused_settings(parsed, model.config, placement, rows=slots, device=launch.topology.device)
    told = EngineLines(
        f"rollouts: fused engine ({kernels.description}), {settings.num_slots} sequences side by side, "
        f"{settings.kv_bytes / 2**20:.0f} MiB of keys and values in {settings.kv_type}, weights in "
        f"{settings.weight_type}{_describe_drafts(settings)}",
    )
    shared = {"placement": placement, "kernels": kernels, "usable_vocab_size": rows.usable}
    return FusedEngine(model, settings, previous=rows.previous, **shared), told


def _describe_drafts(settings: FusedSettings) -> str:
    most = settings.speculative_tokens
    number = "as many drafted tokens as pay" if most == AUTO else f"up to {most} drafted tokens a sequence"
    return f", {number} ({settings.speculative_method})" if most else ""


def unused_keys(parsed: Parsed, obstacle: str | None) -> list[str]:
    """Return a line for each given key of the fused engine if an ``obstacle`` requires the eager engine."""
    if obstacle is None:
        return []
    values = {key: getattr(parsed.engine, key) for key in _OF_FUSED_ENGINE if parsed.given(key)}
    return [
        f"{key}={value} has no effect: rollouts use the eager engine with the policy's own weights ({obstacle})"
        for key, value in values.items()
        if value is not None
    ]


def fused_settings(
    parsed: Parsed, config: DecoderConfig, placement: EnginePlacement, *, rows: int, device: str
) -> FusedSettings:
    """Return the fused engine's settings for ``rows`` concurrent sequences on ``device`` (``cpu`` or ``gpu``).

    Types that are not given are those of the trained weights. Without ``rollout_kv_memory`` there is room for the keys
    and values of all sequences at full length.
    """
    engine, length = parsed.engine, parsed.data.max_length
    trained = parsed.training.weight_dtype(device)
    kv_type = engine.rollout_kv_type or trained
    room = full_length_bytes(config, num_slots=rows, max_length=length, kv_type=kv_type, shards=placement.tensor.size)
    return FusedSettings(
        num_slots=rows,
        kv_memory=engine.rollout_kv_memory or room,
        max_length=length,
        max_rows=FusedSettings().max_rows if device == "cpu" else ROWS_ON_DEVICE,
        weight_type=engine.rollout_weight_type or trained,
        kv_type=kv_type,
        threads=num_threads(),
        speculative_tokens=engine.speculative_tokens,
        speculative_method=engine.speculative_method,
    )


UNRESTRICTED = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "min_dec_len": 0}
"""With these values tokens are drawn from exactly the distribution that log-probs describe."""


def describe_restrictions(generation: GenerationArguments) -> str | None:
    """Describe the keys that make rollouts come from another distribution than the one scored; None if none do."""
    given = {key: getattr(generation, key) for key in UNRESTRICTED}
    shaping = [f"{key}={value:g}" for key, value in given.items() if value != UNRESTRICTED[key]]
    if not shaping:
        return None
    if shaping == ["min_dec_len=1"]:
        return "min_dec_len=1: no response is empty; log-probs do not know that the first token cannot be an end token"
    neutral = ", ".join(f"{key} {value:g}" for key, value in UNRESTRICTED.items())
    return (
        f"rollouts are drawn with {', '.join(shaping)}, but log-probs, ratios and KL are those of the full policy: "
        f"tokens come from another distribution than the one that is trained (neutral values: {neutral})"
    )


def generation_options(parsed: Parsed, roles: Roles, *, sample: bool) -> GenerationOptions:
    """Return the sampling options; a response ends at an end token, a stop id, or the length limit."""
    generation, data = parsed.generation, parsed.data
    config = roles.policy.config
    ends = sequence_ends(config, roles.tokenizer)
    return GenerationOptions(
        max_new_tokens=generation.max_dec_len or data.max_length - 1,
        min_new_tokens=generation.min_dec_len,
        max_total_tokens=data.max_length,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        repetition_penalty=generation.repetition_penalty,
        stop_token_ids=with_stop_tokens(ends, generation.stop_token_ids, known=config.vocab_size, owner="policy"),
        do_sample=sample,
    )
