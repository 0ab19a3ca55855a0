"""List the tensors of a model folder, whoever wrote it, with Hugging Face's names and layout; nothing is read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from alignment.architecture.cuts import whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, LM_HEAD
from alignment.errors import ModelFolderError
from alignment.models.folders.family_files import FamilyFiles
from alignment.models.folders.layout import is_paddle_layout
from alignment.models.folders.naming import canonical_name, is_transposed
from alignment.models.folders.paddle_parts import join_parts, split_fused
from alignment.models.folders.views import StoredTensor, Transposed
from alignment.models.folders.weight_files import WeightFiles, find_weight_files
from alignment.telemetry import log

Naming = Callable[[str], str | None]
"""Maps a tensor's name in the files to the parameter's name; None: the model does not need it."""


def find_weights(folder: Path, config: DecoderConfig, *, head_prefix: str | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of ``folder`` by parameter name, matrices as [out, in].

    ``head_prefix`` is the name of the score head. ModelFolderError if files are missing or damaged, hold more than
    tensors, or contradict each other.
    """
    naming = partial(canonical_name, head_prefix=head_prefix)
    found: dict[str, StoredTensor] = {}
    files = FamilyFiles(config)
    tensors = _list_whole(folder, config, naming)
    named = ((tensor.name, tensor) for tensor in tensors)
    if not files.is_plain:
        names = {*whole_shapes(config, "causal"), LM_HEAD}  # which files may hold although it is tied
        named = files.parameters(tensors, names, folder)
    for stored, tensor in named:
        name = naming(stored)
        if name in found:
            raise ModelFolderError(f"{folder}: holds {name} more than once, the last time as {tensor.name}")
        if name is not None:
            found[name] = tensor
    return found


def _list_whole(folder: Path, config: DecoderConfig, naming: Naming) -> Iterator[StoredTensor]:
    """Yield unsplit tensors, matrices as [out, in], under their names in the files."""
    files = find_weight_files(folder)
    parts = [list(_list_part(files, paths, config, naming)) for paths in files.parts]
    shapes = {**whole_shapes(config, "causal"), "score.weight": (config.head_width, 1)}
    if len(parts) == 1:
        tags = {files.format.read_tag(path) for path in files.parts[0]}
        if config.family.files or not is_paddle_layout(
            [(naming(tensor.name), tensor) for tensor in parts[0]], tags, shapes, folder
        ):
            yield from parts[0]
            return
    if config.sliding_window is not None and config.sliding_window < config.max_position_embeddings:
        log.warn(
            f"{folder}: config.json has sliding_window {config.sliding_window}, which is applied here but ignored by "
            "PaddleNLP: the logits of longer rows differ"
        )
    split = [
        _by_name((piece for whole in part for piece in split_fused(whole, config, folder)), folder) for part in parts
    ]
    if config.tie_word_embeddings:
        embedding = (config.vocab_size, config.head_width)
        shapes[LM_HEAD] = embedding if _ties_head(config) else embedding[::-1]
    named_shapes = {name: shapes.get(naming(name) or "") for part in split for name in part}
    for tensor in join_parts(split, named_shapes, folder):
        yield _as_hugging_face(tensor, naming(tensor.name), config)


def _by_name(tensors: Iterable[StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    named: dict[str, StoredTensor] = {}
    for tensor in tensors:
        if named.setdefault(tensor.name, tensor) is not tensor:
            raise ModelFolderError(f"{folder}: holds {tensor.name} more than once")
    return named


def _list_part(files: WeightFiles, paths: list[Path], config: DecoderConfig, naming: Naming) -> Iterator[StoredTensor]:
    """Yield the tensors of a model's files without the last pipeline stage's copy of a tied embedding."""
    has_embedding = False
    for path in paths:
        for tensor in files.format.list_file(path):
            is_embedding = config.tie_word_embeddings and naming(tensor.name) == EMBEDDING
            if not (is_embedding and has_embedding):
                yield tensor
            has_embedding |= is_embedding


def _as_hugging_face(tensor: StoredTensor, name: str | None, config: DecoderConfig) -> StoredTensor:
    """Return a tensor of PaddleNLP in Hugging Face's layout."""
    is_same = name is None or not is_transposed(name)
    if name == LM_HEAD and config.tie_word_embeddings:
        embedding = (config.vocab_size, config.head_width)
        is_same = tensor.shape == embedding and (embedding != embedding[::-1] or _ties_head(config))
    return tensor if is_same else Transposed(tensor)


def _ties_head(config: DecoderConfig) -> bool:
    """Return whether PaddleNLP's class ties the head, so that it stores the head as the embedding, [V, H]."""
    theirs = config.family.paddlenlp
    return theirs is None or theirs.ties_head
