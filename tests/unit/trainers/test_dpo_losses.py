"""What the keys of DPO's losses refuse before anything is loaded."""

from __future__ import annotations

import pytest

from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"loss_type": "sigmiod"}, "loss_type: expected one of 'sigmoid', .*, got 'sigmiod'; did you mean 'sigmoid'"),
        (
            {"loss_type": ["sigmoid", "sft"]},
            "loss_type=sigmoid sft needs a weight for each loss, for example loss_weights=1.0 1.0",
        ),
        (
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 1, 2]},
            "loss_weights=1.0 1.0 2.0 must have one weight for each loss of loss_type=sigmoid sft",
        ),
        ({"loss_type": ["ipo", "ipo"], "loss_weights": [1, 1]}, "loss_type=ipo ipo must name one loss, or several dif"),
        ({"loss_type": []}, "loss_type= must name one loss"),
        (
            {"ld_alpha": 0.5, "precompute_ref_logprobs": True},
            "precompute_ref_logprobs=true is refused: ld_alpha=0.5",
        ),
        ({"ld_alpha": 1.5}, "ld_alpha: expected a value >= 0 and <= 1, got 1.5"),
        ({"loss_weights": [0]}, "loss_weights: expected a value > 0, got 0"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing: expected a value >= 0 and < 0.5, got 0.5"),
        ({"loss_type": "exo_pair"}, "loss_type=exo_pair needs label_smoothing above 0"),
        (
            {"loss_type": "simpo", "precompute_ref_logprobs": True},
            "precompute_ref_logprobs=true is refused: loss_type=simpo reads no reference",
        ),
        (
            {"loss_type": "orpo", "ref_model_name_or_path": "other"},
            "ref_model_name_or_path=.* reads no reference",
        ),
    ],
)
def test_a_loss_that_cannot_be_computed_is_refused_by_name(tmp_path, monkeypatch, keys, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    given = {"train_datasets": "packing-preference/train", "model_name_or_path": "policy", "output_dir": "out", **keys}
    with pytest.raises(ArgumentError, match=rf"^1 invalid argument\(s\):\n  {says}"):
        TRAINERS["dpo"].parse(given)
    assert not (tmp_path / "out").exists()
