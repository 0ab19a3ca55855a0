"""Read and write safetensors files with one tensor in memory at a time, bfloat16 included."""

from __future__ import annotations

import json
import math
import operator
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import ModelFolderError
from alignment.models.folder_files import file_inside, parse_object, read_object
from alignment.telemetry import log

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DEFAULT_SHARD_BYTES = 5 * 2**30
_LARGEST_HEADER, _MOST_AXES = 100 << 20, 8
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_WHOLE_NUMBERS = {
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
_DTYPES = _FLOATS | _WHOLE_NUMBERS
_CODES = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}


class Stored(NamedTuple):
    """One tensor read from a file."""

    name: str
    array: np.ndarray
    """In the file's dtype; bfloat16 as uint16 bits."""
    is_bfloat16: bool

    def as_float32(self) -> np.ndarray:
        """Return the values in float32."""
        if not self.is_bfloat16:
            return self.array.astype(np.float32)
        return (self.array.astype(np.uint32) << 16).view(np.float32)


def weight_files(folder: Path, single: str = SINGLE_FILE, index: str = INDEX_FILE) -> list[Path]:
    """Return the weight files of a folder: the single one, or the shards in its index; empty if it has neither.

    If there are both, the single file is read, as in transformers: a stale index is common.
    """
    if (folder / single).is_file():
        if (folder / index).is_file():
            log.warn(f"{folder}: holds {single} and {index}; the single file is read, the index is not")
        return [file_inside(folder, single)]
    if not (folder / index).is_file():
        return []
    try:
        names = sorted(set(read_object(folder, index)["weight_map"].values()))
        paths = {name: file_inside(folder, name) for name in names}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{folder / index}: cannot be read as an index of shards ({error!r})") from error
    absent = [name for name, path in paths.items() if not path.is_file()]
    if absent:
        raise ModelFolderError(f"{folder / index} names {', '.join(absent)}, which {folder} does not hold")
    return list(paths.values())


class Location(NamedTuple):
    """The location of one tensor, which is not read yet."""

    name: str
    shape: tuple[int, ...]
    code: str
    """The file's name for the dtype."""
    path: Path
    offset: int
    """In bytes from the beginning of the file."""

    @property
    def is_float(self) -> bool:
        """Whether the dtype is floating point; buffers and quantized weights are integers."""
        return self.code in _FLOATS

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the tensor, or the rectangle cut out by ``slices``; only its pages are read."""
        stored = map_array(self.path, np.dtype(_DTYPES[self.code]), self.offset, self.shape)
        return Stored(self.name, np.array(stored[slices]), self.code == "BF16")


def map_array(path: Path, dtype: np.dtype, offset: int, shape: Sequence[int]) -> np.ndarray:
    """Return a memory map of the numbers at byte ``offset``, or an empty array, which cannot be mapped."""
    return np.memmap(path, dtype, "r", offset, tuple(shape)) if math.prod(shape) else np.empty(shape, dtype)


def list_tensors(folder: Path) -> Iterator[Location]:
    """Yield the location of every tensor of the folder; ModelFolderError names a damaged file."""
    files = weight_files(folder)
    if not files:
        raise ModelFolderError(f"{folder}: no {SINGLE_FILE} and no {INDEX_FILE}")
    for path in files:
        yield from list_file(path)


def read_tensors(folder: Path) -> Iterator[Stored]:
    """Yield every tensor of the folder's safetensors files; ModelFolderError names a damaged file."""
    for location in list_tensors(folder):
        yield location.read()


def list_file(path: Path) -> Iterator[Location]:
    """Yield the locations of the tensors of one file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header, start = _read_header(file, path, size)
    for name, entry in header.items():
        if name != "__metadata__":
            first, _ = _check_entry(name, entry, path, size - start)
            yield Location(name, tuple(entry["shape"]), entry["dtype"], path, start + first)


def read_tag(path: Path) -> str | None:
    """Return the format tag in the metadata of one file (``pt``, ``np`` and others), None if it has none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header, _ = _read_header(file, path, size)
    metadata = header.get("__metadata__")
    tag = metadata.get("format") if isinstance(metadata, dict) else None
    return tag if isinstance(tag, str) else None


def _read_header(file: Any, path: Path, size: int) -> tuple[dict[str, Any], int]:
    length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else -1
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise ModelFolderError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
    header = parse_object(file.read(length), f"{path}: its header is damaged:")
    try:
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
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ModelFolderError(f"{path}: {name} has dtype {dtype} (readable: {', '.join(_DTYPES)})")
    expected = math.prod(numbers[2:]) * np.dtype(_DTYPES[dtype]).itemsize
    if min(numbers) < 0 or len(shape) > _MOST_AXES or not first <= last <= available or last - first != expected:
        raise ModelFolderError(f"{path}: {name} has {last - first} bytes where shape {shape} needs {expected}")
    return first, last


class TensorEntry(NamedTuple):
    """One tensor to be written."""

    name: str
    dtype: np.dtype
    """uint16: bfloat16 bits."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def cut_files(entries: Iterable[TensorEntry], *, max_bytes: int = DEFAULT_SHARD_BYTES) -> list[list[TensorEntry]]:
    """Return the tensors of each file, in order; a file exceeds ``max_bytes`` only if a single tensor does."""
    files: list[list[TensorEntry]] = [[]]
    size = 0
    for entry in entries:
        if files[-1] and size + entry.num_bytes > max_bytes:
            files.append([])
            size = 0
        files[-1].append(entry)
        size += entry.num_bytes
    return files


def file_names(count: int) -> list[str]:
    """Return the names of the files of a model: the single one, or numbered shards."""
    if count == 1:
        return [SINGLE_FILE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def remove_weights(folder: Path) -> None:
    """Remove old weights from ``folder``, so that a reader cannot mix them with new ones."""
    for old in [folder / INDEX_FILE, *folder.glob("model*.safetensors")]:
        old.unlink(missing_ok=True)


def write_index(folder: Path, files: Mapping[str, Sequence[TensorEntry]]) -> None:
    """Write the index that says which shard holds which tensor; a single file needs none."""
    if len(files) > 1:
        weight_map = {entry.name: file for file, entries in files.items() for entry in entries}
        total = sum(entry.num_bytes for entries in files.values() for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_files(
    folder: Path,
    files: Mapping[str, Sequence[TensorEntry]],
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    tag: str = "pt",
) -> None:
    """Write ``files``; ``tensors`` yields (name, array) in exactly their order, one in memory at a time.

    ``tag`` is the format tag; under ``np`` bfloat16 is labelled uint16, as numpy has no such type. For atomic writes
    use ``training.durable.write_folder``.
    """
    source = iter(tensors)
    for name, entries in files.items():
        with (folder / name).open("wb") as file:
            file.write(_header(entries, tag))
            for entry in entries:
                name, array = next(source)
                assert entry == TensorEntry(name, array.dtype, array.shape), f"{name} came where {entry} was announced"
                file.write(np.ascontiguousarray(array).data)


def _header(entries: Sequence[TensorEntry], tag: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": tag}}
    position = 0
    for entry in entries:
        code = ("U16" if tag == "np" else "BF16") if entry.dtype == np.uint16 else _CODES[entry.dtype]
        end = position + entry.num_bytes
        header[entry.name] = {"dtype": code, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
