"""Find out whether a folder stores matrices as [out, in], like Hugging Face, or as [in, out], like PaddleNLP.

Files declare a layout by their format tag and their tensor names. Every matrix that is not square must agree with that,
and decides if the declarations differ; a square one tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from alignment.errors import ModelFolderError
from alignment.models.folders.naming import FAMILY_PREFIXES, is_transposed
from alignment.models.folders.views import StoredTensor

_WRITERS = {"np": True, "pd": True, "pt": False, "tf": False, "flax": False, "mlx": False}
"""Whether writers with this format tag store [in, out]."""
_WORDS = {True: "[in, out], as PaddleNLP writes them", False: "[out, in], as Hugging Face's format has them"}


def is_paddle_layout(
    named: Sequence[tuple[str | None, StoredTensor]],
    tags: Iterable[str | None],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> bool:
    """Return whether matrices are [in, out]; ModelFolderError if that is unknown or contradictory.

    ``named`` pairs each tensor with its parameter's name, ``tags`` are the format tags of the files, and ``shapes`` the
    [in, out] shapes of the parameters.
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
    """Return the layouts that the folder declares ([in, out] or not), each with the reason in words."""
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
    """Return the layouts seen in non-square matrices, each with the name of the first such tensor."""
    found: dict[bool, str] = {}
    for name, tensor in named:
        shape = shapes.get(name) if name is not None and is_transposed(name) else None
        if shape is not None and shape != shape[::-1] and tensor.shape in (shape, shape[::-1]):
            found.setdefault(tensor.shape == shape, tensor.name)
    return found
