"""What is compared: every trainer, variant and algorithm is there once, under its own label."""

from __future__ import annotations

import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.models.config import read_config
from alignment.parity.subjects import COMMON, SUBJECTS, make_models, write_arguments
from alignment.trainers.registered import TRAINERS


def test_every_trainer_with_and_without_adapter_variant_and_algorithm_is_compared():
    trainers = [TRAINERS[name] for name in TRAINERS]
    variants = [label for trainer in trainers for label in trainer.variants]
    expected = [trainer.label for trainer in trainers] + [f"LoRA {trainer.label}" for trainer in trainers] + variants
    assert sorted(SUBJECTS) == sorted({*expected, *(ALGORITHMS[name].title for name in ALGORITHMS)})
    assert len(set(expected)) == len(expected)
    assert {"SimPO", "ORPO", "Cost", "Regression", "Gating", "Process"} <= set(variants)


@pytest.mark.parametrize("label", SUBJECTS)
def test_its_keys_are_understood(label, tmp_path):
    subject = SUBJECTS[label]
    parsed = TRAINERS[subject.trainer].parse([str(write_arguments(tmp_path, subject.trainer, "run", subject.changes))])
    assert parsed.training.max_steps == COMMON["max_steps"]
    assert parsed.adapter.lora == label.startswith("LoRA ")


@pytest.mark.parametrize("width", ["n_embd", "hidden_size"])
def test_small_models_of_a_family_with_names_of_its_own(tmp_path, width):
    shape = {"model_type": "gpt2", width: 32, "n_inner": 48, "n_layer": 1, "n_head": 2}
    make_models(tmp_path, shape)
    assert [read_config(tmp_path / name).hidden_size for name in ("actor", "teacher")] == [32, 64]
