"""Tensor-parallel models equal the whole model: outputs, and the gradient of every parameter."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ranks_models as ranks

from alignment.architecture.layout import Layout
from alignment.models.folders import saving
from alignment.ops.token_logprobs import head_logprobs
from alignment.parallel.local_ranks import run_ranks

pytestmark = pytest.mark.distributed
LLAMA = {"model_type": "llama", "attention_bias": True, "mlp_bias": True}
QWEN3 = {"model_type": "qwen3", "head_dim": 12}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 5, "num_local_experts": 5, "moe_intermediate_size": 21}
EXPERTS |= {"shared_expert_intermediate_size": 14, "mlp_only_layers": [0]}
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
CASES = {
    "llama with all biases": {"config": LLAMA},
    "llama with a key head for each": {"config": {**LLAMA, "num_key_value_heads": 4}},
    "llama with one key head": {"config": {**LLAMA, "num_key_value_heads": 1}},
    "mistral with a window": {"config": {"model_type": "mistral", "sliding_window": 4}},
    "qwen2, tied": {"config": {"model_type": "qwen2", "tie_word_embeddings": True}},
    "qwen3": {"config": QWEN3},
    "mixtral": {"config": {"model_type": "mixtral", **EXPERTS}},
    "qwen2-moe with a dense layer": {"config": {"model_type": "qwen2_moe", **EXPERTS}},
    "qwen3-moe, recomputed": {"config": {"model_type": "qwen3_moe", **EXPERTS}, "recompute": "full", "replays": True},
    "qwen2-moe, other experts": {"config": {"model_type": "qwen2_moe", **EXPERTS}, "expert_degree": 2, "replays": True},
    "gemma": {"config": {"model_type": "gemma", "head_dim": 12, "num_key_value_heads": 1}},
    "gpt2": {"config": {"model_type": "gpt2", "intermediate_size": 50}},
    "opt": {"config": {"model_type": "opt"}},
    "opt 350m": {"config": {"model_type": "opt", "word_embed_proj_dim": 18, "do_layer_norm_before": False}},
    "falcon": {"config": {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2}},
    "gpt_neox": {"config": {"model_type": "gpt_neox", "rotary_pct": 0.5}},
    "glm4": {"config": {"model_type": "glm4", "head_dim": 8}},
    "phi3": {"config": {"model_type": "phi3", "sliding_window": 4}},
    "internlm2": {"config": {"model_type": "internlm2", "bias": True}},
    "gemma2": {"config": {"model_type": "gemma2", "head_dim": 12, "sliding_window": 4, **CAPS}},
    "gemma3": {
        "config": {"model_type": "gemma3_text", "head_dim": 12, "sliding_window": 4, "sliding_window_pattern": 2}
    },
    "olmo2": {"config": {"model_type": "olmo2"}},
    "olmo2 with one key head": {"config": {"model_type": "olmo2", "num_key_value_heads": 1}},
    "phi": {"config": {"model_type": "phi"}},
    "score model": {"config": LLAMA, "kind": "score"},
    "qwen3 in float64": {"config": QWEN3, "dtype": "float64"},
    "recomputed layers": {"config": QWEN3, "recompute": "full"},
    "recomputed attention": {"config": QWEN3, "recompute": "full_attn"},
    "recomputed attention weights": {"config": QWEN3, "recompute": "core_attn"},
}
STORED = {"qwen2": {}, "phi3": {}, "internlm2": {"bias": True}}
"""The files of the last two fuse queries, keys and values: in stacks, and group by group."""
TOKENS = {"all tokens everywhere": 0, "tokens split": 1}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Models and the folders they were saved to, by family."""
    found = {}
    for family, keys in STORED.items():
        found[family] = tmp_path_factory.mktemp(family), ranks.build({"config": {"model_type": family, **keys}})
        saving.save_model(*found[family], None)
    return found


@pytest.fixture(scope="module", params=[2, 4])
def found(request, stored):
    """What every rank of a tensor-parallel layout computed."""
    layout, folder = Layout(tensor=request.param), Path(__file__).parent
    arguments = (layout, list(CASES.values()), {family: str(place) for family, (place, _) in stored.items()})
    return run_ranks("ranks_models:run_all", *arguments, world_size=layout.world_size, search_path=[folder])


@pytest.fixture(scope="module")
def references():
    """Outputs and gradients of every case in one process."""
    results = {}
    for name, case in CASES.items():
        model = ranks.build(case)
        outputs = ranks.backward(model, ranks.make_batch(case))
        results[name] = outputs, {key: p.grad.numpy() for key, p in model.named_parameters()}
    return results


def assemble(held):
    """Return whole tensors from what every rank holds ((part, array) by name); copies must agree."""
    whole = {}
    for rank in held:
        for name, (part, array) in rank.items():
            assert array.shape == part.extent, name
            target = whole.setdefault(name, np.full(part.shape, np.nan, array.dtype))
            before = target[part.slices]
            assert np.isnan(before).all() or np.allclose(before, array, rtol=1e-4, atol=1e-5 * abs(array).max()), name
            target[part.slices] = array
    return whole


def difference(found, wanted):
    """Return the largest difference, relative to the largest value."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    return abs(found - wanted).max() / max(abs(wanted).max(), 1e-30)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_one_process(case, tokens, found, references):
    tolerance = 1e-12 if CASES[case].get("dtype") == "float64" else 1e-5
    results = [rank["cases"][TOKENS[tokens]][list(CASES).index(case)] for rank in found]
    outputs, gradients = references[case]
    for result in results:
        for name, value in outputs.items():
            assert np.array_equal(result["outputs"][name], results[0]["outputs"][name]), "all ranks have one result"
            assert difference(result["outputs"][name], value) < tolerance, name
    whole = assemble([result["gradients"] for result in results])
    assert whole.keys() == gradients.keys()
    largest = max(abs(value).max() for value in gradients.values())
    for name, value in gradients.items():
        # Without rotation the softmax does not see a key's bias: its gradient is rounding only.
        is_rounding = name.endswith("k_proj.bias") and abs(value).max() < 1e-6 * largest
        assert is_rounding or difference(whole[name], value) < tolerance, name


@pytest.mark.parametrize("family", STORED)
def test_a_folder_is_read_in_parts(family, found, stored):
    model, results = stored[family][1], [rank["folders"][family] for rank in found]
    whole = assemble([result["weights"] for result in results])
    assert whole.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert np.array_equal(whole[name], parameter.numpy()), name
    batch = ranks.make_batch()
    logits = model(batch.input_ids, lengths=batch.lengths).numpy()
    for result in results:
        assert np.array_equal(result["chosen"].reshape(logits.shape[:2]), logits.argmax(-1))
        assert not result["ties"].any(), "of equal logits the first wins"


def test_a_split_head_in_pieces_equals_the_whole_one(found):
    case = ranks.head_case()
    hidden, weight = (paddle.to_tensor(case[name], stop_gradient=False) for name in ("hidden", "weight"))
    logprobs, entropies = head_logprobs(hidden, weight, paddle.to_tensor(case["targets"]), with_entropy=True)
    (logprobs * paddle.to_tensor(case["slopes"]) + entropies).sum().backward()
    for result in (rank["head"] for rank in found):
        np.testing.assert_allclose(result["logprobs"], logprobs.numpy(), rtol=1e-12)
        np.testing.assert_allclose(result["entropies"], entropies.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result["hidden"], hidden.grad.numpy(), atol=1e-11)
        np.testing.assert_allclose(result["weight"], weight.grad.numpy()[:, slice(*result["columns"])], atol=1e-11)
