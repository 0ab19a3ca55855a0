"""Which files of a folder hold its weights, in which format, and what of a model each of them is."""

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
    """How one kind of file is called and read."""

    stem: str
    suffix: str
    list_file: Callable[[Path], Iterator[StoredTensor]]
    read_tag: Callable[[Path], str | None]
    """Return whose format a file says it is; see ``layout``."""

    @property
    def single(self) -> str:
        """The file of a model that has one."""
        return self.stem + self.suffix

    @property
    def index(self) -> str:
        """The file that names the shards of a model that has several."""
        return f"{self.single}.index.json"


def list_safetensors(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file; numpy has no bfloat16, so PaddleNLP writes its bits as uint16."""
    is_numpy = read_tag(path) in ("np", "pd")
    for tensor in list_file(path):
        yield tensor._replace(code="BF16") if is_numpy and tensor.code == "U16" else tensor


FORMATS = (
    Format("model", ".safetensors", list_safetensors, read_tag),
    Format("model_state", pdparams.SUFFIX, pdparams.list_pdparams, lambda _: "pd"),
    Format("pytorch_model", torch_bin.SUFFIX, torch_bin.list_torch_bin, lambda _: "pt"),
)
"""In the order in which a folder is searched."""
_VARIANT = re.compile(r"(?:tp(\d+))?_?(?:pp(\d+))?")
"""What PaddleNLP puts into the names of files of one tensor-parallel process, one pipeline stage, or both."""


class WeightFiles(NamedTuple):
    """The files of one model."""

    format: Format
    parts: list[list[Path]]
    """For each tensor-parallel process whose part was saved its files; one list where the model is whole."""


def find_weight_files(folder: Path) -> WeightFiles:
    """Return the files of ``folder``; ModelFolderError where there are none, or some are missing."""
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
    """Return the files of each tensor-parallel part, those of all its pipeline stages together."""
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
