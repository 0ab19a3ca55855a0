"""Find the weight files of a folder, their format, and the part of the model that each holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alignment.errors import ModelFolderError
from alignment.models.folder_files import refuse_adapter
from alignment.models.folders import pdparams, torch_bin
from alignment.models.folders.views import StoredTensor
from alignment.models.safetensors_io import list_file, read_tag, weight_files
from alignment.telemetry import log


class Format(NamedTuple):
    """The file names and the reader of one format of weights."""

    stem: str
    suffix: str
    list_file: Callable[[Path], Iterator[StoredTensor]]
    read_tag: Callable[[Path], str | None]
    """Returns the format tag of a file; see ``layout``."""

    @property
    def single(self) -> str:
        """The name of the file of a model without shards."""
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        """The name of the file that lists the shards of a model."""
        return f"{self.single}.index.json"


def list_safetensors(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file; for PaddleNLP, which stores bfloat16 as uint16, the dtype is corrected."""
    is_numpy = read_tag(path) in ("np", "pd")
    for tensor in list_file(path):
        yield tensor._replace(code="BF16") if is_numpy and tensor.code == "U16" else tensor


FORMATS = (
    Format("model", ".safetensors", list_safetensors, read_tag),
    Format("model_state", pdparams.SUFFIX, pdparams.list_pdparams, lambda _: "pd"),
    Format("pytorch_model", torch_bin.SUFFIX, torch_bin.list_torch_bin, lambda _: "pt"),
)
"""In search order."""
_VARIANT = re.compile(r"(?:tp(\d+))?_?(?:pp(\d+))?")
"""PaddleNLP's mark in the names of files that hold one tensor-parallel part, one pipeline stage, or both."""


class WeightFiles(NamedTuple):
    """The files of one model."""

    format: Format
    parts: list[list[Path]]
    """The files of each saved tensor-parallel part; one list if the model is not split."""


def find_weight_files(folder: Path) -> WeightFiles:
    """Return the weight files of ``folder``; ModelFolderError if there are none or some are missing."""
    found = [WeightFiles(form, parts) for form in FORMATS if (parts := _find_parts(folder, form))]
    if not found:
        refuse_adapter(folder)
        looked_for = ", ".join(f"{form.single}, {form.index}" for form in FORMATS)
        raise ModelFolderError(f"{folder}: no weights; looked for {looked_for}")
    if len(found) > 1:
        others = ", ".join(parts[0].name for files in found[1:] for parts in files.parts[:1])
        log.info(f"{folder}: its {found[0].format.suffix[1:]} files are read, {others} is not")
    return found[0]


def _find_parts(folder: Path, form: Format) -> list[list[Path]]:
    whole = weight_files(folder, form.single, form.index)
    parts = _find_variants(folder, form)
    if whole and parts:
        raise ModelFolderError(
            f"{folder}: holds a whole model ({whole[0].name}) and parts of one ({parts[0][0].name}); remove the older"
        )
    return [whole] if whole else parts


def _find_variants(folder: Path, form: Format) -> list[list[Path]]:
    """Return the files of each tensor-parallel part, with those of all its pipeline stages."""
    found: dict[int, dict[int, list[Path]]] = {}
    for variant in sorted(set(_list_variants(folder, form))):
        tensor, stage = (int(number or 0) for number in _VARIANT.fullmatch(variant).groups())
        files = weight_files(folder, f"{form.stem}.{variant}{form.suffix}", f"{form.single}.index.{variant}.json")
        found.setdefault(tensor, {})[stage] = files
    stages = max((max(part) + 1 for part in found.values()), default=0)
    for tensor in range(max(found, default=-1) + 1):
        absent = sorted(set(range(stages)) - set(found.get(tensor, {})))
        if absent:
            raise ModelFolderError(
                f"{folder}: holds parts of {max(found) + 1} tensor-parallel processes and {stages} pipeline stages, "
                f"but not part {tensor} of stage {absent[0]}"
            )
    return [[path for stage in range(stages) for path in found[tensor][stage]] for tensor in range(len(found))]


def _list_variants(folder: Path, form: Format) -> Iterator[str]:
    for path in folder.iterdir():
        name = path.name
        if name.startswith(f"{form.index.removesuffix('json')}") and name.endswith(".json"):
            variant = name[len(form.index) - len("json") : -len(".json")]
        elif name.startswith(f"{form.stem}.") and name.endswith(form.suffix):
            variant = name[len(form.stem) + 1 : -len(form.suffix)]
        else:
            continue
        if variant and _VARIANT.fullmatch(variant):
            yield variant
