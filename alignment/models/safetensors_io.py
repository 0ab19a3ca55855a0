"""Reading and writing safetensors files as a stream: one tensor in memory at a time, bfloat16 without torch."""

from __future__ import annotations

import json
import math
import operator
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import ModelFolderError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DEFAULT_SHARD_BYTES = 5 * 2**30
_LARGEST_HEADER = 100 << 20
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "BF16": np.uint16}
_CODES = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}


class Stored(NamedTuple):
    """One tensor of a file."""

    name: str
    array: np.ndarray
    """In the file's dtype; bfloat16 as uint16 bits."""
    is_bfloat16: bool

    def as_float32(self) -> np.ndarray:
        """Return the values in float32."""
        if not self.is_bfloat16:
            return self.array.astype(np.float32)
        return (self.array.astype(np.uint32) << 16).view(np.float32)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder: one, or the shards of its index."""
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            absent = [name for name in names if not (folder / name).is_file()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{index}: cannot be read as an index of shards ({error!r})") from error
        if absent:
            raise ModelFolderError(f"{index} names {', '.join(absent)}, which {folder} does not hold")
        return [folder / name for name in names]
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".pdparams", ".bin", ".pt", ".pth"))
    hint = f"; it holds {', '.join(others)}, which must be converted to safetensors first" if others else ""
    raise ModelFolderError(f"{folder}: no {SINGLE_FILE} and no {INDEX_FILE}{hint}")


def read_tensors(folder: Path) -> Iterator[Stored]:
    """Yield every tensor of the folder's safetensors files; a damaged file is a ModelFolderError that names it."""
    for path in weight_files(folder):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[Stored]:
    """Yield the tensors of one file, read one by one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header, start = _read_header(file, path, size)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = _check_entry(name, entry, path, size - start)
            file.seek(start + first)
            array = np.frombuffer(file.read(last - first), _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            yield Stored(name, array, entry["dtype"] == "BF16")


def _read_header(file: Any, path: Path, size: int) -> tuple[dict[str, Any], int]:
    length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else -1
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise ModelFolderError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelFolderError(f"{path}: its header is damaged ({error!r})") from error
    if expected != size:
        raise ModelFolderError(f"{path}: cut short or damaged: {size} bytes where its header asks for {expected}")
    return header, 8 + length


def _check_entry(name: str, entry: dict[str, Any], path: Path, available: int) -> tuple[int, int]:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [operator.index(number) for number in (first, last, *shape)]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{path}: its entry for {name} is damaged ({error!r})") from error
    if dtype not in _DTYPES:
        raise ModelFolderError(f"{path}: {name} has dtype {dtype} (readable: {', '.join(_DTYPES)})")
    expected = math.prod(numbers[2:]) * np.dtype(_DTYPES[dtype]).itemsize
    if min(numbers) < 0 or not first <= last <= available or last - first != expected:
        raise ModelFolderError(f"{path}: {name} has {last - first} bytes where shape {shape} needs {expected}")
    return first, last


class _Shard:
    """Tensors that go into one file, by their sizes; their values are fetched when the file is written."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, np.ndarray]] = []
        self.num_bytes = 0

    def add(self, name: str, array: np.ndarray) -> None:
        self.entries.append((name, array))
        self.num_bytes += array.nbytes


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], *, max_shard_bytes: int = DEFAULT_SHARD_BYTES
) -> None:
    """Write (name, array) pairs to ``folder``: one file, or shards with an index; uint16 arrays are bfloat16 bits.

    At most one shard is in memory. Make the folder appear whole with ``write_folder`` of ``training.durable``.
    """
    shard, written = _Shard(), []
    for name, array in tensors:
        if shard.entries and shard.num_bytes + array.nbytes > max_shard_bytes:
            written.append(_write_part(folder, shard, len(written)))
            shard = _Shard()
        shard.add(name, array)
    written.append(_write_part(folder, shard, len(written)))
    _name_parts(folder, written)


def _write_part(folder: Path, shard: _Shard, number: int) -> tuple[Path, list[str], int]:
    path = folder / f"part-{number}"
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, array in shard.entries:
        code = "BF16" if array.dtype == np.uint16 else _CODES[array.dtype]
        end = position + array.nbytes
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in shard.entries:
            file.write(np.ascontiguousarray(array).data)
    return path, [name for name, _ in shard.entries], shard.num_bytes


def _name_parts(folder: Path, parts: list[tuple[Path, list[str], int]]) -> None:
    """Give the parts their names; weights that were in ``folder`` before go, or a reader could find those."""
    for old in [folder / INDEX_FILE, *folder.glob("model*.safetensors")]:
        old.unlink(missing_ok=True)
    if len(parts) == 1:
        parts[0][0].rename(folder / SINGLE_FILE)
        return
    weight_map = {}
    for number, (path, names, _) in enumerate(parts, 1):
        target = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        path.rename(folder / target)
        weight_map.update(dict.fromkeys(names, target))
    index = {"metadata": {"total_size": sum(size for *_, size in parts)}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
