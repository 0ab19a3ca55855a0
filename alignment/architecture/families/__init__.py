"""The table of each model family, one module each; config, decoder, cuts, files, engines and planner derive from it."""

from __future__ import annotations

import importlib
import pkgutil

from alignment.architecture.family import Family, Weight
from alignment.errors import ModelFolderError
from alignment.registry import Registry

OUTSIDE = (
    Weight("embedding", "model.embed_tokens", ("vocabulary", "hidden"), "embedding", "rows"),
    Weight("positions", "model.embed_positions", ("positions", "hidden"), "embedding", needs="learned_positions"),
    Weight("norm", "model.norm", ("hidden",), "norm", bias="norm_bias"),
    Weight("score", "score", ("hidden", "one"), bias="score_bias"),
    Weight("head", "lm_head", ("hidden", "vocabulary"), cut="columns", bias="head_bias"),
)
"""The weights outside the layers, in every family: score models have ``score``, language models ``head``."""
EMBEDDING, POSITIONS, FINAL_NORM, SCORE, LM_HEAD = (f"{weight.name}.weight" for weight in OUTSIDE)
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
