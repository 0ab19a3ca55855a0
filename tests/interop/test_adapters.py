"""Adapters made by PEFT are read here, and those made here are opened by PEFT, with the same outputs and gradients."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.architecture.adapter import Adapter, choose_modules
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import load_adapter, save_adapter, trained_weights
from alignment.models.adapters.peft_config import read_adapter
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.naming import is_transposed
from alignment.models.folders.saving import WeightSource, save_model
from alignment.parallel.dense import DenseRunner
from alignment.records import TokenBatch
from alignment.training.objectives import supervised_objective
from tests.tiny_models import tiny_causal, tiny_score

pytestmark = pytest.mark.interop

ROW = [1, 7, 3, 12, 5, 9]
TOLERANCE = 2e-5
CASES = {
    "all": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    "two": dict(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"]),
    "pattern": dict(r=3, lora_alpha=4, target_modules=r".*layers\.1\..*(up|down)_proj"),
    "rank-stabilized": dict(r=4, lora_alpha=8, target_modules=["o_proj"], use_rslora=True),
}
TASKS = {"causal": "CAUSAL_LM", "score": "SEQ_CLS"}


@pytest.fixture(scope="session")
def peft(torch):
    """The peft module."""
    return pytest.importorskip("peft")


def _base(folder, kind, **changes):
    """Write a base model and return its folder."""
    model = tiny_causal(**changes) if kind == "causal" else tiny_score(ScoreOptions(), **changes)
    save_model(folder / "base", model, None)
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    return folder / "base"


def _theirs(transformers, torch, base, kind):
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if kind == "causal":
        return transformers.AutoModelForCausalLM.from_pretrained(base, **options)
    return transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, **options)


def _ours(base, kind):
    return load_causal_lm(base) if kind == "causal" else load_score_model(base)


def _output(model, kind):
    """Return our logits [S, V], or the score [1] of the last token."""
    model.eval()
    with paddle.no_grad():
        if kind == "causal":
            return model(np.array([ROW]))[0].numpy()
        return model.read_end_scores(TokenBatch.build([np.array(ROW)], [np.array([1])])).numpy()


def _their_output(model, torch):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([ROW])).logits[0].numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", TASKS)
def test_an_adapter_of_peft_gives_its_outputs_here(kind, case, tmp_path, peft, transformers, torch):
    torch.manual_seed(0)
    base = _base(tmp_path, kind)
    config = peft.LoraConfig(task_type=TASKS[kind], init_lora_weights=False, **CASES[case])
    model = peft.get_peft_model(_theirs(transformers, torch, base, kind), config)
    if kind == "score":
        torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight)
    model.save_pretrained(tmp_path / "adapter")
    ours = _ours(base, kind)
    before = _output(ours, kind)
    attach_adapter(ours, read_adapter(tmp_path / "adapter", ours.config), seed=0)
    load_adapter(tmp_path / "adapter", ours)
    theirs = _their_output(model, torch)
    np.testing.assert_allclose(_output(ours, kind), theirs, atol=TOLERANCE)
    assert np.abs(theirs - before).max() > 1e-2


def _adapted(base, kind, case):
    ours, chosen = _ours(base, kind), CASES[case]
    targets = chosen["target_modules"]
    adapter = Adapter(
        rank=chosen["r"],
        alpha=chosen["lora_alpha"],
        rank_stabilized=chosen.get("use_rslora", False),
        modules=choose_modules(ours.config, [targets] if isinstance(targets, str) else targets),
        base=str(base),
    )
    attach_adapter(ours, adapter, seed=3)
    generator = np.random.default_rng(5)
    for name, parameter in ours.named_parameters():
        if name.endswith("lora_B.weight") or name == "score.weight":
            parameter.set_value(paddle.to_tensor(generator.standard_normal(parameter.shape).astype("float32") * 0.3))
    return ours


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", TASKS)
def test_peft_opens_an_adapter_made_here(kind, case, tmp_path, peft, transformers, torch):
    base = _base(tmp_path, kind)
    ours = _adapted(base, kind, case)
    save_adapter(tmp_path / "adapter", ours, None, trained_weights(WeightSource.of(ours)))
    model = peft.PeftModel.from_pretrained(_theirs(transformers, torch, base, kind), tmp_path / "adapter")
    np.testing.assert_allclose(_their_output(model, torch), _output(ours, kind), atol=TOLERANCE)


@pytest.mark.parametrize(("family", "case"), [("gemma", "all"), ("phi3", "rank-stabilized")])
def test_peft_opens_an_adapter_of_a_family_with_the_same_names(family, case, tmp_path, peft, transformers, torch):
    base = _base(tmp_path, "causal", model_type=family, pad_token_id=0)
    ours = _adapted(base, "causal", case)
    save_adapter(tmp_path / "adapter", ours, None, trained_weights(WeightSource.of(ours)))
    model = peft.PeftModel.from_pretrained(_theirs(transformers, torch, base, "causal"), tmp_path / "adapter")
    np.testing.assert_allclose(_their_output(model, torch), _output(ours, "causal"), atol=TOLERANCE)


def test_peft_refuses_an_adapter_whose_matrices_it_knows_otherwise(tmp_path, peft, transformers, torch):
    base = _base(tmp_path, "causal", model_type="phi3", pad_token_id=0)
    ours = _adapted(base, "causal", "all")
    save_adapter(tmp_path / "adapter", ours, None, trained_weights(WeightSource.of(ours)))
    with pytest.raises((KeyError, ValueError), match="ALIGNMENT_LORA"):
        peft.PeftModel.from_pretrained(_theirs(transformers, torch, base, "causal"), tmp_path / "adapter")


def test_loss_and_gradients_are_those_of_peft(tmp_path, peft, transformers, torch):
    base = _base(tmp_path, "causal")
    ours = _adapted(base, "causal", "all")
    save_adapter(tmp_path / "adapter", ours, None, trained_weights(WeightSource.of(ours)))
    model = _theirs(transformers, torch, base, "causal")
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True)
    ids = torch.tensor([ROW])
    loss = model(ids, labels=ids).loss
    loss.backward()
    batch = TokenBatch.build([np.array(ROW)], [np.arange(1, len(ROW))])
    metrics = DenseRunner(ours).forward_backward([batch], supervised_objective([batch]))
    assert abs(float(metrics[0]["sft/loss"].value) - loss.item()) < 1e-5
    theirs = {
        name.removeprefix("base_model.model.").replace(".default.", "."): p.grad.numpy()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    own = {name: p.grad.numpy() for name, p in ours.named_parameters() if p.grad is not None}
    assert own.keys() == theirs.keys() and len(own) == 28
    for name, gradient in own.items():
        np.testing.assert_allclose(gradient.T if is_transposed(name) else gradient, theirs[name], atol=TOLERANCE)
