"""The reference of a policy: kept in memory, or run once for all rows with the log-probs cached."""

from __future__ import annotations

import gc
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.data.encoded.tokenized import Sample
from alignment.errors import CheckpointError
from alignment.models.adapters.attach import BaseRunner
from alignment.models.decoder.placement import Placement
from alignment.models.folders.hub import check_fit, resolve_model_folder
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.build_runner import build_runner
from alignment.parallel.comms.together import on_main
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.adapters import warn_of_start
from alignment.runs.frozen import FrozenInput, frozen_model, frozen_random_model
from alignment.runs.launch import Launch
from alignment.runs.models import check_layout, check_same_tokens, freeze
from alignment.runs.offline.joined import NOT_JOINED, Joining, forward_joined, joining_of
from alignment.runs.offline.moving_reference import REFERENCE, MovingReference, check_same_shapes
from alignment.runs.offline.objective import OfflineObjective
from alignment.runs.placed import LaidOutModel, place
from alignment.runs.reference_start import frozen_copy, is_policys_start
from alignment.telemetry import log
from alignment.telemetry.progress import Progress
from alignment.telemetry.wording import counted
from alignment.training.checkpoint import Checkpoint
from alignment.training.durable import write_folder

FIELD = "reference"
"""Batch field with the reference's numbers, one per row."""
FOLDER = "reference_logprobs"
"""Their cache under ``output_dir``."""
_FILE = "rows.npz"
_BATCHES_AT_ONCE = 16

Prepare = Callable[[Sequence[TokenBatch], ModelRunner], None]


class Reference(NamedTuple):
    """The reference of a run, or its teacher."""

    prepare: Prepare
    """Adds its numbers to micro-batches, given the policy's runner."""
    moving: MovingReference | None = None
    """None: it stays as it is."""
    read: Callable[[Any, TokenBatch], Any] | None = None
    """Computes from the trained model and what was prepared what the loss needs; None: that of the objective."""
    stage: str = "reference"
    """The stage that its time is attributed to."""
    joining: Joining = NOT_JOINED
    """How its passes join micro-batches, and others that read the same may."""


class ReferenceSource(NamedTuple):
    """The source of the reference."""

    folder: str | None
    """None if the run, and so the reference, starts from random weights."""
    frozen: Callable[[], FrozenInput] | None
    """Reads it all at the first call, in all processes together. None: it has moved, and comes from the checkpoint."""
    num_ids: int = 0
    """Size of a teacher's vocabulary."""
    obstacle: str | None = None
    """Why a reference is not the model that training starts from; None: it is."""


def open_reference(
    launch: Launch,
    objective: OfflineObjective,
    tokenizer: Tokenizer,
    source: ReferenceSource,
    samples: Sequence[Iterable[Sample]],
    policy: Any,
    ahead: Iterable[TokenBatch] = (),
) -> Reference:
    """Return the reference of ``policy``.

    That of a policy with an adapter is its base, unless the arguments name another. With
    ``precompute_ref_logprobs`` the numbers of all rows of ``samples``, and of the rows ``ahead`` that are not samples,
    are computed here, unless an earlier run with the same reference cached them, and the reference is not kept in
    memory.
    """
    asked, read = launch.parsed.reference, objective.read_for(launch.parsed.groups.get("loss"))
    # Another reader may need to know which rows are a pair.
    joining = joining_of(launch, policy, objective.rows_per_sample) if read is objective.read else NOT_JOINED

    def load() -> LaidOutModel:
        if is_start:
            model = frozen_copy(policy, Placement.of(launch.topology), dtype=launch.dtype)
        else:
            model = freeze(objective.model.load(launch, source.folder, tokenizer, is_trained=False))
        if asked.movement:
            check_same_shapes(model, policy, asked.ref_model_name_or_path)
        offload = asked.ref_offload or "freeze_model" in launch.parsed.parallel.offloaded
        return place("reference", model, launch.topology, offload=offload)

    def run(batches: Sequence[TokenBatch], runner: Any) -> None:
        _attach(batches, forward_joined(runner, batches, read, joining))

    is_base = policy.adapter is not None and asked.ref_model_name_or_path is None
    is_start = policy.adapter is None and _is_start(launch, source)
    if is_base:
        warn_of_start(launch)
    if is_base and not asked.precompute_ref_logprobs:
        return Reference(lambda batches, runner: run(batches, BaseRunner(runner)), joining=joining)
    if not asked.precompute_ref_logprobs:
        placed, moving = load(), None
        if asked.movement:
            moving = MovingReference(
                placed=placed, movement=asked.movement, tokenizer=tokenizer, topology=launch.topology
            )
        return Reference(lambda batches, _: run(batches, placed.runner), moving, joining=joining)
    shows = launch.topology.is_main and not launch.parsed.training.disable_tqdm
    kept = KeptRows(launch, _key(launch, objective, source, policy if is_base else None), shows_progress=shows)
    size = launch.parsed.training.per_device_eval_batch_size
    batches = (batch for part in samples for batch in _cut(part, size, objective.make_batch))
    own = build_runner(policy, launch.topology) if is_base or is_start else None
    own = BaseRunner(own) if is_base else own
    kept.complete(chain(batches, ahead), lambda: own or load().runner, read)
    gc.collect()
    return Reference(lambda batches, _: _attach(batches, map(kept.numbers, batches)), joining=joining)


def _is_start(launch: Launch, source: ReferenceSource) -> bool:
    precomputes = launch.parsed.reference.precompute_ref_logprobs
    how = "the policy computes its log-probs" if precomputes else "its weights are copied from the policy"
    return is_policys_start(launch, source.obstacle, how=how)


def row_keys(batch: TokenBatch) -> list[bytes]:
    """Return a hash of the content of each row: its tokens, and which of them are targets."""
    counts = np.bincount(batch.target_rows, minlength=batch.num_rows)
    targets = np.split(batch.target_positions, np.cumsum(counts)[:-1])
    rows = [ids[:length] for ids, length in zip(batch.input_ids, batch.lengths, strict=True)]
    return [
        hashlib.blake2b(ids.tobytes() + b"/" + positions.tobytes(), digest_size=16).digest()
        for ids, positions in zip(rows, targets, strict=True)
    ]


@dataclass
class KeptRows:
    """The reference's number for each row by ``row_keys``, in memory and in the run's folder."""

    launch: Launch
    key: str
    """Identifies the reference model by content."""
    shows_progress: bool = False
    """Whether to show a progress bar."""

    def __post_init__(self) -> None:
        self._known: dict[bytes, float] = on_main(self._world, _read, self._folder / _FILE)

    def numbers(self, batch: TokenBatch) -> np.ndarray:
        """Return the numbers of all rows of ``batch``, [rows] float32."""
        return np.array([self._known[key] for key in row_keys(batch)], np.float32)

    def complete(self, batches: Iterable[TokenBatch], load: Callable[[], ModelRunner], read: Any) -> None:
        """Compute and save the missing numbers of ``batches`` with the runner that ``load`` returns."""
        missing = [batch for batch in batches if not self._known.keys() >= set(row_keys(batch))]
        rows = sum(batch.num_rows for batch in missing)
        log.info(
            f"log-probs of the reference: {counted(rows, 'row')} to compute, {len(self._known)} kept in {self._folder}"
        )
        if not missing:
            return
        runner = load()
        with Progress(rows, "log-probs of the reference", enabled=self.shows_progress) as progress:
            for first in range(0, len(missing), _BATCHES_AT_ONCE):
                part = missing[first : first + _BATCHES_AT_ONCE]
                for batch, numbers in zip(part, runner.forward(part, read), strict=True):
                    self._known.update(zip(row_keys(batch), map(float, numbers), strict=True))
                    progress.advance(batch.num_rows)
        with write_folder(self._folder, self._world) as aside:
            on_main(self._world, _write, aside / _FILE, self._known)

    @property
    def _world(self) -> Any:
        return self.launch.topology.world

    @property
    def _folder(self) -> Path:
        return self.launch.output_dir / FOLDER / self.key


def _attach(batches: Sequence[TokenBatch], numbers: Iterable[np.ndarray]) -> None:
    for batch, found in zip(batches, numbers, strict=True):
        batch.fields[FIELD] = found


def _cut(samples: Iterable[Sample], size: int, make_batch: Any) -> Iterable[TokenBatch]:
    held = list(samples)
    return (make_batch(held[i : i + size]) for i in range(0, len(held), size))


def find_reference(launch: Launch, objective: OfflineObjective, tokenizer: Tokenizer) -> ReferenceSource:
    """Return the reference named by the arguments, or the model that training starts from; a moved one is the
    checkpoint's.
    """
    if launch.parsed.reference.movement and launch.checkpoint is not None:
        return ReferenceSource(_moved_folder(launch.checkpoint), None)
    named, world = launch.parsed.reference.ref_model_name_or_path, launch.topology.world
    name = named or launch.parsed.offline.model_name_or_path
    if name is None:
        config, seed = launch.parsed.offline.model_config_name_or_path, launch.parsed.training.seed
        return ReferenceSource(None, cache(partial(frozen_random_model, "the reference", config, seed, world)))
    folder = str(resolve_model_folder(name, parts=objective.model.parts, is_told=bool(named)))
    if named:
        check_layout(launch, check_fit(folder, tokenizer, max_length=launch.parsed.data.max_length), folder)
        check_same_tokens(f"ref_model_name_or_path={named}", folder, tokenizer, reader="the policy")
    frozen = cache(partial(frozen_model, "the reference", folder, world, launch.hashed))
    return ReferenceSource(folder, frozen, obstacle=_other_model(launch, objective, folder) if named else None)


def _other_model(launch: Launch, objective: OfflineObjective, folder: str) -> str | None:
    """Return that the reference in ``folder`` is not the model that training starts from; None: it is."""
    named, start = launch.parsed.reference.ref_model_name_or_path, launch.parsed.offline.model_name_or_path
    parts = objective.model.parts
    if start is not None and resolve_model_folder(start, parts=parts, is_told=False).samefile(folder):
        return None
    return f"ref_model_name_or_path={named} is not the model that training starts from"


def _moved_folder(checkpoint: Checkpoint) -> str:
    if REFERENCE not in checkpoint.models:
        raise CheckpointError(
            f"cannot resume from {checkpoint.folder}: it holds no reference, so the run that wrote it kept its "
            "reference fixed; leave out ref_model_update_steps and sync_ref_model, or start a new run from its policy"
        )
    return str(checkpoint.model_folder(REFERENCE))


def _key(launch: Launch, objective: OfflineObjective, source: ReferenceSource, base: Any | None) -> str:
    """Return a key of everything that the reference's numbers depend on: weights, objective, and how they are computed.

    ``base``: the policy whose base, perhaps in 4 bits, is the reference; None: the reference is a model of its own.
    """
    parts = [source.frozen().content, launch.dtype, objective.name]
    if launch.product_dtype != launch.dtype:
        parts.append(f"products in {launch.product_dtype}")
    if base is not None and base.placement.four_bit:
        parts.append("weights in 4 bits")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[bytes, float]:
    """Return the saved numbers by row; empty if there is no file, or (with a warning) if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return dict(zip(map(bytes, kept["keys"]), map(float, kept["numbers"]), strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        # Of a damaged archive numpy says that it holds pickled data, and how to read that.
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no archive that a run wrote"
        log.warn(f"{path} is damaged ({why}); the log-probs of the reference are computed again")
        return {}


def _write(path: Path, known: dict[bytes, float]) -> None:
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    np.savez(path, keys=keys, numbers=np.array(list(known.values()), np.float32))
