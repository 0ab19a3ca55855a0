"""What the report says of a metric, by its name."""

from __future__ import annotations

import re

import pytest

from alignment.telemetry.report.explanations import OTHER, explain, explanations, groups

WORDS = {
    "source": "reward",
    "judge": "truth",
    "term": "length",
    "note": "ended",
    "attribute": "helpfulness",
    "side": "better",
    "model": "policy",
    "stage": "rollout",
    "phase": "update",
    "group": "tensor",
    "objective": "other",
    "loss": "sppo_hard",
}


def test_what_is_known_of_a_metric():
    loss = explain("sft/loss")
    assert (loss.group, loss.title, loss.unit, loss.better) == ("Loss and accuracy", "Loss", "nats", "lower")
    assert loss.text == "Cross-entropy of the target tokens, nats per token. Should fall and level off."


@pytest.mark.parametrize(
    ("name", "title", "start"),
    [
        ("memory/update_after_gib", "Memory left in use", "In use when the phase update ended."),
        ("traffic/update_tensor_mib", "Sent during update", "Sent to the processes of the group tensor during update"),
        ("memory/update_gib", "Peak memory", "Most memory in use at any time in the phase update."),
        ("eval/train_rewards_mean", "Mean score", "Mean score of as many answers of the training split as"),
        ("eval/worse_rewards_mean", "Mean score by side", "Mean score of the worse answers"),
        ("eval/truth", "Second judge: truth", "Mean score of the second judge truth for the same held-out responses."),
        ("policy/loss", "Policy loss", "The clipped objective."),
        ("orpo/loss", "Loss", "Loss of the orpo objective"),
        ("critic/gradient_norm", "Gradient norm", "Norm of the gradient of the critic before clipping."),
    ],
)
def test_names_that_are_built_from_words(name, title, start):
    assert explain(name).title == title
    assert explain(name).text.startswith(start)


def test_a_metric_that_is_not_known_is_a_chart_of_its_own_after_all_others():
    unknown = explain("mine/<b>")
    assert (unknown.group, unknown.title, unknown.text) == (OTHER, "mine/<b>", "")
    assert unknown.order > max(known.order for known in explanations())


def test_every_entry_is_complete_and_its_own():
    entries = explanations()
    for entry in entries:
        assert entry.text.endswith(".") and 20 < len(entry.text) <= 200, entry
        assert entry.unit and entry.title and entry.better in ("", "higher", "lower"), entry
        assert entry.group in groups()
        assert explain(fill(entry.name)).name == entry.name, f"{entry.name} is hidden by an entry before it"
    units = {}
    for entry in entries:
        assert units.setdefault((entry.group, entry.title), entry.unit) == entry.unit, f"one chart, two units: {entry}"


def fill(name: str) -> str:
    """Return the name of a metric that the entry ``name`` describes."""
    return re.sub(r"\{(\w+)\}", lambda match: WORDS[match[1]], name)
