"""The tensors of a model folder with Hugging Face's names and layout, whoever wrote it; nothing is read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from alignment.architecture.cuts import whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, LM_HEAD
from alignment.errors import ModelFolderError
from alignment.models.folders.layout import is_paddle_layout
from alignment.models.folders.naming import canonical_name, is_transposed
from alignment.models.folders.paddle_parts import join_parts, split_fused
from alignment.models.folders.views import StoredTensor, Turned
from alignment.models.folders.weight_files import WeightFiles, find_weight_files
from alignment.telemetry import log

Naming = Callable[[str], str | None]
"""From a tensor's name in the files to that of the parameter; None: the model does not need it."""


def find_weights(folder: Path, config: DecoderConfig, *, head_prefix: str | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of ``folder`` by the parameter's name, matrices as [out, in].

    ``head_prefix`` names the score head. ModelFolderError where files are missing or damaged, hold more than tensors,
    or contradict each other.
    """
    naming = partial(canonical_name, head_prefix=head_prefix)
    found: dict[str, StoredTensor] = {}
    for tensor in _list_whole(folder, config, naming):
        name = naming(tensor.name)
        if name in found:
            raise ModelFolderError(f"{folder}: holds {name} more than once, the last time as {tensor.name}")
        if name is not None:
            found[name] = tensor
    return found


def _list_whole(folder: Path, config: DecoderConfig, naming: Naming) -> Iterator[StoredTensor]:
    """Yield whole tensors, matrices as [out, in], under the names of the files."""
    files = find_weight_files(folder)
    parts = [list(_list_part(files, paths, config, naming)) for paths in files.parts]
    shapes = {**whole_shapes(config, "causal"), "score.weight": (config.hidden_size, 1)}
    if len(parts) == 1:
        tags = {files.format.read_tag(path) for path in files.parts[0]}
        if not is_paddle_layout([(naming(tensor.name), tensor) for tensor in parts[0]], tags, shapes, folder):
            yield from parts[0]
            return
    if config.sliding_window is not None and config.sliding_window < config.max_position_embeddings:
        log.warn(
            f"{folder}: config.json has sliding_window {config.sliding_window}, which is kept here and which PaddleNLP "
            "ignores: the logits of longer rows differ"
        )
    split = [
        _by_name((piece for whole in part for piece in split_fused(whole, config, folder)), folder) for part in parts
    ]
    if config.tie_word_embeddings:
        shapes[LM_HEAD] = _tied_head(config)
    named_shapes = {name: shapes.get(naming(name) or "") for part in split for name in part}
    for tensor in join_parts(split, named_shapes, folder):
        yield _turn(tensor, naming(tensor.name), config)


def _by_name(tensors: Iterable[StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    named: dict[str, StoredTensor] = {}
    for tensor in tensors:
        if named.setdefault(tensor.name, tensor) is not tensor:
            raise ModelFolderError(f"{folder}: holds {tensor.name} more than once")
    return named


def _list_part(files: WeightFiles, paths: list[Path], config: DecoderConfig, naming: Naming) -> Iterator[StoredTensor]:
    """Yield the tensors of a model's files; the last pipeline stage has a copy of a tied embedding."""
    has_embedding = False
    for path in paths:
        for tensor in files.format.list_file(path):
            is_embedding = config.tie_word_embeddings and naming(tensor.name) == EMBEDDING
            if not (is_embedding and has_embedding):
                yield tensor
            has_embedding |= is_embedding


def _turn(tensor: StoredTensor, name: str | None, config: DecoderConfig) -> StoredTensor:
    """Return a tensor of PaddleNLP as Hugging Face keeps it."""
    stays = name is None or not is_transposed(name)
    if name == LM_HEAD and config.tie_word_embeddings:
        copied = (config.vocab_size, config.hidden_size)
        stays = tensor.shape == copied and (copied != copied[::-1] or _ties_head(config))
    return tensor if stays else Turned(tensor)


def _tied_head(config: DecoderConfig) -> tuple[int, int]:
    """Return the shape of the head of PaddleNLP's model where config.json ties it.

    It is the embedding itself, where its model ties them at all.
    """
    copied = (config.vocab_size, config.hidden_size)
    return copied if _ties_head(config) else copied[::-1]


def _ties_head(config: DecoderConfig) -> bool:
    theirs = config.family.paddlenlp
    return theirs is None or theirs.ties_head
