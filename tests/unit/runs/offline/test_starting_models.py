"""What a score model is started from: random weights, another model with a new head, or its own checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.models.folders.attribute_heads import StoredHead
from alignment.runs.offline import models


@pytest.fixture
def load(monkeypatch):
    """Return a function: what ``load_scorer`` calls for a folder, with the keys it gives."""
    calls = []
    for name in ("load_score_model", "random_score_model"):
        monkeypatch.setattr(models, name, lambda *given, name=name, **named: calls.append((name, given, named)))
    monkeypatch.setattr(models, "trained_placement", lambda launch: "whole")

    def run(folder, checkpoint=None, lora=False):
        calls.clear()
        group = SimpleNamespace(
            objective="cost", score_bias=True, normalize_score_during_training=True, normalizer_momentum=0.5,
            attributes=(), train_head_only=False,
            normalizer_type="RunningMeanStd", model_config_name_or_path="config", value_head_prefix="v_head",
        )  # fmt: skip
        loss = SimpleNamespace(loss_type="average")
        adapter = SimpleNamespace(lora=lora)
        parsed = SimpleNamespace(offline=group, loss=loss, adapter=adapter, training=SimpleNamespace(seed=7))
        start = SimpleNamespace(parsed=parsed, topology=None, checkpoint=checkpoint, dtype="bfloat16")
        models.load_scorer(start, folder, "tokenizer")
        ((name, given, named),) = calls
        return name, given, named

    return run


def test_without_a_folder_the_weights_are_drawn_from_the_seed(load):
    name, (config, options), named = load(None)
    assert (name, config) == ("random_score_model", "config")
    assert (options.score_type, options.score_bias, options.do_normalize) == ("cost", True, True)
    assert options.score_form == "average"
    assert (options.normalizer_type, options.normalizer_momentum) == ("RunningMeanStd", 0.5)
    assert named == {"seed": 7, "tokenizer": "tokenizer", "dtype": "bfloat16", "placement": "whole"}


def test_a_fresh_run_gives_the_model_a_head_and_options_of_its_own(load):
    name, given, named = load("folder")
    assert (name, given, named.pop("options").score_type) == ("load_score_model", ("folder",), "cost")
    assert named == {
        "dtype": "bfloat16", "new_score_head": True, "stored_head": StoredHead("v_head"), "seed": 7,
        "placement": "whole",
    }  # fmt: skip


def test_a_resumed_run_takes_everything_from_its_checkpoint(load):
    _, _, named = load("checkpoint", checkpoint=object())
    assert named == {
        "dtype": "bfloat16", "options": None, "new_score_head": False, "stored_head": StoredHead(), "seed": 7,
        "placement": "whole",
    }  # fmt: skip


def test_a_resumed_adapter_starts_from_its_base_which_has_no_head(load):
    _, _, named = load("base", checkpoint=object(), lora=True)
    assert named["new_score_head"] and named["options"].score_type == "cost"
