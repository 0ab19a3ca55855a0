"""Join PaddleNLP's tensor-parallel parts and split its fused projections; matrices are [in, out] here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.folders.views import Cut, Joined, Renamed, StoredTensor

_QKV, _GATE_UP = "self_attn.qkv_proj.", "mlp.gate_up_fused_proj."


def split_fused(tensor: StoredTensor, config: DecoderConfig, folder: Path) -> Iterator[StoredTensor]:
    """Yield the projections fused in ``tensor``, or ``tensor`` itself if it is not a fused one.

    The columns of ``qkv_proj`` are grouped by key head (its queries, its key, its value); those of
    ``gate_up_fused_proj`` are the whole gate, then the whole up projection.
    """
    columns = tensor.shape[-1] if tensor.shape else 0
    if _QKV in tensor.name:
        dim, groups = config.head_dim, config.num_attention_heads // config.num_key_value_heads
        step = (groups + 2) * dim
        _check_columns(tensor, columns, step, folder)
        cuts = (("queries", 0, groups * dim), ("keys", groups * dim, dim), ("values", (groups + 1) * dim, dim))
        for role, first, width in cuts:
            pieces = [Cut(tensor, start + first, start + first + width) for start in range(0, columns, step)]
            yield Renamed(Joined.of(pieces, len(tensor.shape) - 1), _rename(tensor, _QKV, role, config))
    elif _GATE_UP in tensor.name:
        _check_columns(tensor, columns, 2, folder)
        for role, start in (("gate", 0), ("up", columns // 2)):
            piece = Cut(tensor, start, start + columns // 2)
            yield Renamed(piece, _rename(tensor, _GATE_UP, role, config))
    else:
        yield tensor


def _rename(tensor: StoredTensor, fused: str, role: str, config: DecoderConfig) -> str:
    """Return the name of ``tensor`` with ``fused`` replaced by the projection with ``role``."""
    return tensor.name.replace(fused, f"{config.family.weight(role).name}.")


def _check_columns(tensor: StoredTensor, columns: int, step: int, folder: Path) -> None:
    if not columns or columns % step:
        raise ModelFolderError(f"{folder}: {tensor.name} has {columns} columns, config.json needs a multiple of {step}")


def join_parts(
    parts: Sequence[Mapping[str, StoredTensor]], shapes: Mapping[str, tuple[int, ...] | None], folder: Path
) -> Iterator[StoredTensor]:
    """Yield the whole tensors of a model saved in tensor-parallel ``parts``, which are in rank order.

    ``shapes`` are those of the whole tensors by their name in the files; None: unknown.
    """
    names = {name for part in parts for name in part}
    for name in names:
        absent = [number for number, part in enumerate(parts) if name not in part]
        if absent:
            raise ModelFolderError(f"{folder}: {name} is not in tensor-parallel part {absent[0]} of {len(parts)}")
    for name in parts[0]:
        yield _join([part[name] for part in parts], shapes[name], folder)


def _join(pieces: list[StoredTensor], whole: tuple[int, ...] | None, folder: Path) -> StoredTensor:
    """Return one tensor: the first piece if every process holds the whole, else all pieces side by side."""
    found = [piece.shape for piece in pieces]
    # Score heads, statistics, and keys and vocabularies that cannot be split evenly are replicated.
    if len(set(found)) == 1 and whole in (None, found[0]):
        return pieces[0]
    for axis in range(len(found[0])):
        joined = Joined.of(pieces, axis)
        along = {shape[:axis] + shape[axis + 1 :] for shape in found}
        if len(along) == 1 and joined.shape == whole:
            return joined
    raise ModelFolderError(
        f"{folder}: the {len(pieces)} tensor-parallel parts of {pieces[0].name} have the shapes "
        f"{', '.join(str(list(shape)) for shape in found)}, config.json needs {list(whole or ())} for the whole; "
        "is a part missing?"
    )
