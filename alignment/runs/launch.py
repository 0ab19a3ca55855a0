"""Start a run, the same way for every trainer: device, log, resume, and the effect of arguments on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alignment.architecture.layout import Layout
from alignment.arguments.effects import refuse_unbuilt, report_effects
from alignment.arguments.global_batches import share_global_batches
from alignment.arguments.keys.training import HIGHEST, MatmulPrecision, TrainingArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.peers.presets import describe as describe_preset
from alignment.errors import ArgumentError
from alignment.models.decoder.forest import share_tokens
from alignment.ops import onednn
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import native_ops_enabled, use_native_ops
from alignment.ops.products import round_operands
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.comms.meeting import read_world
from alignment.parallel.comms.stop_signals import StopSignals
from alignment.parallel.initialise import initialise, select_device
from alignment.parallel.roles import RoleRanks, place_roles
from alignment.parallel.topology import Topology
from alignment.runs.changed_arguments import describe_changes, read_arguments
from alignment.runs.degrees import describe_roles, resolve_layout, resolve_roles
from alignment.runs.output_lock import hold_output
from alignment.runs.resume import open_checkpoint
from alignment.telemetry import log
from alignment.training.checkpoint import Checkpoint, CheckpointStore
from alignment.training.durable import make_folder


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A run that is about to start."""

    parsed: Parsed
    topology: Topology
    output_dir: Path
    store: CheckpointStore
    checkpoint: Checkpoint | None
    """The checkpoint to resume from, or None."""
    signals: StopSignals = field(default_factory=StopSignals)
    """The signals that this process has received."""
    hashed: dict[str, str] = field(default_factory=dict)
    """Checksums of the frozen models that the run has read so far, by folder."""
    roles: Mapping[str, RoleRanks] = field(default_factory=dict)
    """The ranks of each role with ``placement``; empty: every rank has its share of every model."""

    def ranks_of(self, role: str) -> RoleRanks:
        """Return the ranks of the model ``role``, and how they divide it."""
        topology, everyone = self.topology, tuple(range(self.topology.world_size))
        plain = RoleRanks(world=topology.world, ranks=everyone, layout=topology.layout, topology=topology)
        return self.roles.get(role, plain)

    @property
    def dtype(self) -> str:
        """The dtype of trained weights."""
        return self.parsed.training.weight_dtype(self.topology.device)

    @property
    def product_dtype(self) -> str:
        """The dtype in which products of weights read their operands."""
        return self.parsed.training.product_dtype(self.topology.device)

    @property
    def run_name(self) -> str:
        """``run_name``, or the name of the output folder."""
        return self.parsed.training.run_name or self.output_dir.name

    @property
    def resume_step(self) -> int:
        """Updates already made."""
        return 0 if self.checkpoint is None else int(self.checkpoint.state["step"])


def open_output(folder: Path) -> Path:
    """Create the output folder; ArgumentError if that fails."""
    try:
        make_folder(folder)
    except OSError as error:
        reason = "it is a file" if os.path.isfile(folder) else error.strerror or str(error)
        raise ArgumentError(
            f"output_dir={folder} cannot be used: {reason}; name a folder that can be written"
        ) from error
    return folder


def choose_operators(world: Group, *, wanted: bool) -> None:
    """Use compiled operators for training and scoring if ``wanted`` and if all processes of ``world`` have them; log
    which operators are used.
    """
    use_native_ops(wanted)
    if not wanted:
        return
    own = None if native_ops_enabled() else find_core().reason
    obstacle = next((o for o in world.gather_objects(own, "operators") if o is not None), None)
    use_native_ops(obstacle is None)
    if obstacle is None:
        log.info(f"training and scoring: compiled operators ({find_core().reason})")
    else:
        log.info(f"training and scoring: Paddle's operators ({obstacle})")


def prepare_device(wanted: str | None) -> str:
    """Return the device to use (None: the one that Paddle finds) in a process that is alone and only reads models.

    From here on it computes with the operators that a run uses there by default.
    """
    device = select_device(wanted)
    choose_operators(ALONE, wanted=device == "cpu")
    choose_sharing(None)
    return device


def choose_sharing(wanted: bool | None) -> None:
    """Let rows share the tokens they begin with (null: where compiled operators run); UserError if they cannot."""
    share_tokens(wanted is not False and native_ops_enabled())
    if wanted and not native_ops_enabled():
        raise ArgumentError(
            f"share_prefixes=true needs the compiled operators, which are not there ({find_core().reason}); leave it "
            "null"
        )


def choose_precision(world: Group, *, wanted: MatmulPrecision) -> None:
    """Compute float32 products of linear layers and heads on the CPU in this precision; the same ArgumentError on all
    processes of ``world`` if the processor of one does not have it.
    """
    rounds = wanted != HIGHEST
    round_operands(False)
    obstacles = world.gather_objects(onednn.find_obstacle(), "precision") if rounds else []
    obstacle = next((o for o in obstacles if o is not None), None)
    if obstacle is not None:
        raise ArgumentError(
            f"float32_matmul_precision={wanted} needs a processor that multiplies in bfloat16 (AVX512_BF16 or AMX): "
            f"{obstacle}; here it can only be {HIGHEST}"
        )
    round_operands(rounds)
    if rounds:
        log.info("training and scoring: operands of products are rounded to bfloat16 (float32_matmul_precision)")


def _choose_arithmetic(training: TrainingArguments, topology: Topology) -> None:
    on_cpu = topology.device == "cpu"
    choose_operators(topology.world, wanted=training.use_native_ops and on_cpu)
    choose_sharing(wanted=training.share_prefixes)
    choose_precision(topology.world, wanted=training.float32_matmul_precision if on_cpu else HIGHEST)


def describe_offload(parts: Collection[str], device: str) -> str | None:
    """Return a warning that offloading ``parts`` saves nothing on the CPU; None elsewhere."""
    if not parts or device != "cpu":
        return None
    verb = "is" if len(parts) == 1 else "are"
    return (
        f"offload_level: {', '.join(sorted(parts))} {verb} copied to host arrays while unused and back for each use; "
        "on a CPU that is the same memory, so offloading saves nothing and costs the copies"
    )


@contextlib.contextmanager
def open_launch(parsed: Parsed, *, host: str) -> Iterator[Launch]:
    """Select the device, lock the output folder, open the log, report arguments without effect, and decide between
    fresh start and resume. Signals are caught and the folder is locked until the context exits.
    """
    training = parsed.training
    world_size = read_world()[0]
    wanted = resolve_roles(parsed, world_size=world_size)
    layout = Layout(data=world_size) if wanted else resolve_layout(parsed.parallel, world_size=world_size)
    topology = initialise(
        device=training.device,
        seed=training.seed,
        layout=layout,
        timeout=parsed.parallel.distributed_timeout,
        deterministic=training.deterministic,
    )
    refuse_unbuilt(parsed, device=topology.device, world_size=topology.world_size)
    effects = report_effects(parsed, device=topology.device, world_size=topology.world_size)
    roles, trained = place_roles(topology, wanted), wanted["policy"][1] if wanted else layout
    told, parsed = describe_preset(parsed), share_global_batches(parsed, batch_ranks=trained.batch)
    output_dir, signals = open_output(Path(training.output_dir)), StopSignals()
    with signals.caught(), hold_output(output_dir, topology.world) as taken_over:
        log.configure(output_dir=output_dir, is_main=topology.is_main)
        if taken_over:
            log.info(taken_over)
        store, checkpoint = _open_store(parsed, output_dir, topology)
        precision = "; products of float32 are computed in float32 (TF32 is off)" if topology.device == "gpu" else ""
        where = describe_roles(wanted) if wanted else layout
        log.info(f"{where} on {topology.device}; {host}{precision}")
        if topology.device == "gpu" and not training.deterministic:
            log.info("GPU results are not bitwise reproducible, even on resume (deterministic=true makes them so)")
        _choose_arithmetic(training, topology)
        for effect in effects:
            log.warn(str(effect))
        if told is not None:
            log.info(told)
        if offloads := describe_offload(parsed.parallel.offloaded, topology.device):
            log.warn(offloads)
        if topology.is_main:
            trained = training.weight_dtype(topology.device)
            before = {} if checkpoint is None else read_arguments(checkpoint)
            if changes := describe_changes(parsed, before, trained=trained):
                log.warn(f"resumed with changed values: {changes}")
        yield Launch(
            parsed=parsed,
            topology=topology,
            output_dir=output_dir,
            store=store,
            checkpoint=checkpoint,
            signals=signals,
            roles=roles,
        )


def _open_store(parsed: Parsed, output_dir: Path, topology: Topology) -> tuple[CheckpointStore, Checkpoint | None]:
    """Return the run's checkpoints, and the one to resume from, or None."""
    training = parsed.training
    store = CheckpointStore(output_dir, limit=training.save_total_limit, topology=topology)
    resume = training.resume_from_checkpoint
    checkpoint = open_checkpoint(
        store,
        resume_from=Path(resume) if isinstance(resume, str) else resume,
        overwrite=training.overwrite_output_dir,
        is_training=training.do_train,
    )
    return store, checkpoint
