"""The table of each model family, one module each; config, decoder, cuts, files, engines and planner derive from it."""

from __future__ import annotations

import importlib
import pkgutil

from alignment.architecture.family import Family, Weight
from alignment.errors import ModelFolderError
from alignment.registry import Registry

OUTSIDE = (
    Weight("embedding", "model.embed_tokens", ("vocabulary", "embedding"), "embedding", "rows"),
    Weight("project_in", "model.project_in", ("embedding", "hidden"), needs="embedding_size"),
    Weight("positions", "model.embed_positions", ("positions", "hidden"), "embedding", needs="learned_positions"),
    Weight("norm", "model.norm", ("hidden",), "norm", bias="norm_bias"),
    Weight("project_out", "model.project_out", ("hidden", "embedding"), needs="embedding_size"),
    Weight("score", "score", ("embedding", "one"), bias="score_bias"),
    Weight("head", "lm_head", ("embedding", "vocabulary"), cut="columns", bias="head_bias"),
)
"""The weights outside the layers, in every family: score models have ``score``, language models ``head``."""
EMBEDDING, PROJECT_IN, POSITIONS, FINAL_NORM, PROJECT_OUT, SCORE, LM_HEAD = (f"{w.name}.weight" for w in OUTSIDE)
HEAD_BIAS = "lm_head.bias"
GATING = "gating."
"""Prefix of the numbered layers of a score model's gating network."""

FAMILIES: Registry[Family] = Registry("model family", ModelFolderError)
"""The ``FAMILY`` of every module of this folder, under its ``model_type`` and aliases."""


def register(family: Family) -> Family:
    """Register a family under its ``model_type`` and aliases."""
    return FAMILIES.register(family.name, family, family.aliases)


for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    register(importlib.import_module(_module.name).FAMILY)
