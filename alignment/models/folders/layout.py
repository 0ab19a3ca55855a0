"""Which way round a folder keeps its matrices: [out, in] as Hugging Face does, or [in, out] as PaddleNLP does.

A square matrix looks the same both ways, so nothing is decided by a look at one. Files declare a layout by their format
and names; every matrix that is not square must agree with that, and decides where the declarations differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from alignment.errors import ModelFolderError
from alignment.models.folders.naming import FAMILY_PREFIXES, is_transposed
from alignment.models.folders.views import StoredTensor

_WRITERS = {"np": True, "pd": True, "pt": False, "tf": False, "flax": False, "mlx": False}
"""By the format that a file names: whether such writers keep [in, out]."""
_WORDS = {True: "[in, out], as PaddleNLP writes them", False: "[out, in], as Hugging Face's format has them"}


def is_paddle_layout(
    named: Sequence[tuple[str | None, StoredTensor]],
    tags: Iterable[str | None],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> bool:
    """Return whether matrices are [in, out]; ModelFolderError where that cannot be told or is contradicted.

    ``named`` are the tensors with the names of their parameters, ``tags`` the formats that the files name, ``shapes``
    those of the parameters, [in, out].
    """
    declared = _declarations([tensor for _, tensor in named], tags)
    seen = _evidence(named, shapes)
    if len(seen) == 2:
        raise ModelFolderError(
            f"{folder}: {seen[True]} is stored [in, out] and {seen[False]} [out, in]; one of the two is transposed"
        )
    for answer, tensor in seen.items():
        if set(declared) == {not answer}:
            raise ModelFolderError(
                f"{folder}: {tensor} shows that its matrices are {_WORDS[answer]}, but {declared[not answer]}"
            )
        return answer
    if len(declared) == 1:
        return next(iter(declared))
    reasons = f": {' and '.join(declared.values())}" if declared else ""
    raise ModelFolderError(
        f"{folder}: it cannot be told whether its matrices are {_WORDS[False]}, or {_WORDS[True]}{reasons}. "
        'Write the files again with the metadata {"format": "pt"} or {"format": "np"}'
    )


def _declarations(tensors: Iterable[StoredTensor], tags: Iterable[str | None]) -> dict[bool, str]:
    """Return what the folder says about itself: [in, out] or not, and where that stands."""
    found = {_WRITERS[tag]: f"its files say format {tag!r}" for tag in tags if tag in _WRITERS}
    for tensor in tensors:
        if tensor.name.startswith(FAMILY_PREFIXES):
            found.setdefault(True, f"{tensor.name} is a name of PaddleNLP")
        elif tensor.name.startswith("model."):
            found.setdefault(False, f"{tensor.name} is a name of Hugging Face's format")
    return found


def _evidence(
    named: Iterable[tuple[str | None, StoredTensor]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[bool, str]:
    """Return for each layout that a matrix shows the name of the first one."""
    found: dict[bool, str] = {}
    for name, tensor in named:
        shape = shapes.get(name) if name is not None and is_transposed(name) else None
        if shape is not None and shape != shape[::-1] and tensor.shape in (shape, shape[::-1]):
            found.setdefault(tensor.shape == shape, tensor.name)
    return found
