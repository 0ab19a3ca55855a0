"""What the keys of DPO's losses refuse before anything is loaded."""

from __future__ import annotations

import pytest

from alignment.arguments.effects import report_effects
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
        (
            {"loss_type": "orpo", "sft_loss_ratio": 1},
            "sft_loss_ratio=1.0 is refused: loss_type=orpo contains the cross-entropy of the preferred answers already",
        ),
        (
            {"loss_type": "cpo", "nll_loss_coef": 1},
            "nll_loss_coef=1.0 is refused: loss_type=cpo contains the cross-ent",
        ),
        (
            {"loss_type": "simpo", "ref_offload": True},
            "ref_offload=true is refused: loss_type=simpo reads no reference",
        ),
        (
            {"loss_type": "simpo", "reference_from_policy": True},
            "reference_from_policy=true is refused: loss_type=simpo reads no reference",
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


@pytest.mark.parametrize(
    "written",
    ["sigmoid", "hinge", "simpo", "ipo", "dpop", "kto_pair", "sppo_hard", "nca_pair", "or"],
)
def test_every_loss_type_of_paddlenlp_is_read_with_its_keys(tmp_path, monkeypatch, written):
    """Its keys beside loss_type, with its defaults; those that another loss reads have no effect."""
    monkeypatch.chdir(tmp_path)
    own = {"beta": 0.1, "simpo_gamma": 0.5, "dpop_lambda": 50.0, "label_smoothing": 0.0, "offset_alpha": 0.0}
    own |= {"pref_loss_ratio": 1.0, "sft_loss_ratio": 0.0, "normalize_logps": False, "reference_free": False}
    own |= {"ref_model_update_steps": -1, "ignore_eos_token": False, "loss_type": written}
    given = {"train_datasets": "packing-preference/train", "model_name_or_path": "policy", "output_dir": "out", **own}
    parsed = TRAINERS["dpo"].parse(given)
    assert parsed.loss.loss_type == (written,) and parsed.loss.sft_loss_ratio == 0.0
    report_effects(parsed, device="cpu", world_size=1)


def test_loss_types_are_a_list_with_weights_in_a_file_and_on_the_command_line(tmp_path, monkeypatch):
    """TRL's form; Online-RLHF's aot_pair is TRL's aot."""
    monkeypatch.chdir(tmp_path)
    argv = ["--train_datasets", "packing-preference/train", "--model_name_or_path", "policy", "--output_dir", "out"]
    loss = TRAINERS["dpo"].parse([*argv, "--loss_type", "aot_pair,sft", "--loss_weights", "0.5,0.5"]).loss
    assert (loss.loss_type, loss.loss_weights) == (("aot", "sft"), (0.5, 0.5))
