"""The tensors of a model folder with Hugging Face's names and layout, whoever wrote it; nothing is read yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from alignment.models.config import DecoderConfig
from alignment.models.folders.layout import is_paddle_layout
from alignment.models.folders.paddle_parts import join_parts, split_fused
from alignment.models.folders.views import StoredTensor, Turned
from alignment.models.folders.weight_files import WeightFiles, find_weight_files
from alignment.models.naming import canonical_name, is_transposed
from alignment.models.split_plan import EMBEDDING, whole_shapes

LM_HEAD = "lm_head.weight"


def list_weights(folder: Path, config: DecoderConfig) -> Iterator[StoredTensor]:
    """Yield every tensor of ``folder``, matrices as [out, in]; its name is the one in the file.

    ModelFolderError where files are missing or damaged, hold more than tensors, or contradict each other.
    """
    files = find_weight_files(folder)
    parts = [list(_list_part(files, paths, config)) for paths in files.parts]
    untied = dataclasses.replace(config, tie_word_embeddings=False)
    shapes = {**whole_shapes(untied, "causal"), "score.weight": (config.hidden_size, 1)}
    if config.tie_word_embeddings:  # a copy of the embedding, the same way round in both layouts
        shapes[LM_HEAD] = shapes[EMBEDDING]
    if len(parts) == 1:
        whole = [piece for tensor in parts[0] for piece in split_fused(tensor, config, folder)]
        tags = {files.format.read_tag(path) for path in files.parts[0]}
        telling = {name: shape for name, shape in shapes.items() if name != LM_HEAD or not config.tie_word_embeddings}
        if not is_paddle_layout(whole, tags, telling, folder):
            yield from parts[0]
            return
    else:
        whole = join_parts([_by_name(part, config, folder) for part in parts], shapes, folder)
    for tensor in whole:
        yield _turn(tensor, config)


def _list_part(files: WeightFiles, paths: list[Path], config: DecoderConfig) -> Iterator[StoredTensor]:
    """Yield the tensors of a model's files; the last pipeline stage has a copy of a tied embedding."""
    has_embedding = False
    for path in paths:
        for tensor in files.format.list_file(path):
            is_embedding = config.tie_word_embeddings and canonical_name(tensor.name) == EMBEDDING
            if not (is_embedding and has_embedding):
                yield tensor
            has_embedding |= is_embedding


def _by_name(part: list[StoredTensor], config: DecoderConfig, folder: Path) -> Mapping[str, StoredTensor]:
    return {piece.name: piece for tensor in part for piece in split_fused(tensor, config, folder)}


def _turn(tensor: StoredTensor, config: DecoderConfig) -> StoredTensor:
    """Return a tensor of PaddleNLP as Hugging Face keeps it."""
    name = canonical_name(tensor.name)
    if name is None or not is_transposed(name) or (name == LM_HEAD and config.tie_word_embeddings):
        return tensor
    return Turned(tensor)
