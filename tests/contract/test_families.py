"""What the table of every registered family promises: the one model of its configuration, wherever it is asked for."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from alignment.architecture.cuts import parts_of_rank, tensor_copies, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, FAMILIES, OUTSIDE
from alignment.architecture.family import FLAGS
from alignment.architecture.layout import Layout
from alignment.architecture.paddlenlp_config import to_paddlenlp
from alignment.errors import UserError
from alignment.generation.eager.decoder_weights import LayerWeights
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.capabilities import model_obstacle
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.kernels import CPU_KERNELS
from alignment.models.config import read_config
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.naming import is_transposed
from alignment.models.folders.saving import save_model
from alignment.parallel.comms.group import Group
from alignment.planner.counts.shapes import Held, model_elements

PACKAGE = Path(__file__).resolve().parents[2] / "alignment"
SIZES = {
    "vocab_size": 45,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 0}
EXPERTS = {
    "num_experts_per_tok": 2,
    "num_experts": 5,
    "num_local_experts": 5,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
    "mlp_only_layers": [1],
}
VARIANTS = {
    "plain": {"sliding_window": None},
    "tied": {"tie_word_embeddings": True, "sliding_window": None},
    "every flag": {"head_dim": 6, **WINDOW},
}
LAYOUTS = [
    Layout(tensor=2),
    Layout(tensor=4, sharding=2),
    Layout(tensor=8),
    Layout(pipeline=3),
    Layout(tensor=2, pipeline=2, sharding=2),
]
IDS = np.random.default_rng(0).integers(3, 45, (2, 14))
FIRST = ("llama", "mistral", "qwen2", "qwen3")
PADDLENLP = [name for name in FAMILIES if FAMILIES[name].paddlenlp is not None]


def flag_keys(family):
    """Return the keys of config.json that the flags of ``family`` are read from."""
    table = FAMILIES[family]
    keys = dict.fromkeys(key for key in table.flags.values() if isinstance(key, str) and not key.startswith("not "))
    return tuple(key for key in keys if key not in table.absent)


def raw_config(family, variant):
    asked = {key: True for key in flag_keys(family)} if variant == "every flag" else {}
    raw = {**SIZES, "model_type": family, **VARIANTS[variant]}
    raw |= {key: allowed[0] for key, allowed in FAMILIES[family].fixed.items() if key in raw}
    raw |= {"sliding_window": 6} if FAMILIES[family].window == "by layer" else {}
    raw |= {"head_dim": 8, "partial_rotary_factor": 0.5} if (FAMILIES[family].partial_rotary_factor or 1) < 1 else {}
    raw = {name: value for name, value in raw.items() if name not in FAMILIES[family].absent}
    raw = {FAMILIES[family].key(name): value for name, value in raw.items()} | asked
    if FAMILIES[family].experts is not None:
        asked_windows = {"use_sliding_window": False} if FAMILIES[family].window == "never" else {}
        raw |= {**EXPERTS, **asked_windows}
    return raw


def make_config(family, variant="plain"):
    return DecoderConfig.from_dict(raw_config(family, variant))


def build(config, kind="causal", placement=None):
    where = {} if placement is None else {"placement": placement}
    model = CausalLM(config, **where) if kind == "causal" else ScoreModel(config, ScoreOptions(), **where)
    draw_weights(model, seed=1, std=0.2)
    with paddle.no_grad():
        for name, parameter in model.named_parameters():
            if len(parameter.shape) == 1:  # no norm is 1 and no bias is 0, or a forgotten one would not be noticed
                parameter.set_value(parameter + 0.1 * paddle.cos(paddle.arange(parameter.shape[0]).astype("float32")))
            assert name in model.parts
    return model.eval()


def all_variants():
    """Yield every family and variant; of later families, which interop tests cover too, all but one are rare."""
    for family in FAMILIES:
        for variant in VARIANTS:
            is_rare = family not in FIRST and variant != "every flag"
            marks = [pytest.mark.rare] if is_rare else []
            yield pytest.param((family, variant), marks=marks, id=f"{family}-{variant}")


@pytest.fixture(params=all_variants())
def config(request):
    return make_config(*request.param)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_table_speaks_of_what_there_is(family):
    table, fields = FAMILIES[family], {field.name for field in dataclasses.fields(DecoderConfig)}
    routed = {weight.role for weight in table.layer if weight.layers == "experts"}
    roles = {weight.role for weight in table.layer} - routed
    assert {"queries", "keys", "values", "output"} <= roles <= set(LayerWeights._fields)
    assert (table.experts is not None) == bool(routed)
    assert len({weight.name for weight in table.layer}) == len(table.layer)
    assert {flag for weight in table.layer for flag in (weight.needs, weight.bias) if flag} <= set(FLAGS) <= fields
    assert set(table.flags) <= set(FLAGS)
    assert all(weight.cut == "whole" for weight in table.layer if weight.kind == "norm" and not table.norms_all_heads)


def test_a_configuration_is_read_back_as_it_was_written(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert read_config(tmp_path) == config
    assert DecoderConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_what_a_configuration_derived_is_written_too(config):
    # max_window_layers says which layers have a window; DecoderConfig knows that all have it.
    bare = dataclasses.replace(config, raw={"max_window_layers": 0})
    assert DecoderConfig.from_dict(bare.to_dict()) == config


@pytest.mark.parametrize("kind", ["causal", "score"])
def test_the_model_has_the_tensors_of_the_table(config, kind):
    model = build(config, kind)
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert whole_shapes(config, kind) == found
    known = {*(weight.name for weight in (*OUTSIDE, *config.family.layer))}
    if config.experts is not None:
        known |= {weight.numbered(4).name for weight in config.family.layer if weight.is_expert}
    others = ("model.layers.1.", "model.layers.2.", *(f"model.layers.0.mlp.experts.{number}." for number in range(4)))
    others += tuple(other.replace("mlp.experts", "block_sparse_moe.experts") for other in others[2:])
    endings = {name.rpartition(".")[0] for name in found if not name.startswith(others)}
    assert {ending.removeprefix("model.layers.0.") for ending in endings} <= known
    for weight in config.family.layer:
        number = int(weight.layers == "dense" and config.experts is not None)  # the layer of mlp_only_layers
        name = f"model.layers.{number}.{weight.numbered(4).name}"
        absent = weight.role == "feed_norm" and config.shared_norm
        assert (f"{name}.weight" in found) == (not absent and (not weight.needs or getattr(config, weight.needs))), name
        assert (f"{name}.bias" in found) == (not absent and bool(weight.bias) and getattr(config, weight.bias)), name
        assert is_transposed(f"{name}.weight") == (weight.kind == "matrix")


@pytest.mark.parametrize("kind", ["causal", "score"])
def test_saved_and_read_back_it_gives_the_same_numbers(config, kind, tmp_path):
    model = build(config, kind)
    save_model(tmp_path, model, None)
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["architectures"] == [config.family.class_name(kind)]
    again = load_causal_lm(tmp_path) if kind == "causal" else load_score_model(tmp_path)
    assert again.config.model_type == config.model_type
    wanted = dict(model.named_parameters())
    for name, parameter in again.named_parameters():
        assert np.array_equal(parameter.numpy(), wanted.pop(name).numpy()), name
    assert not wanted
    if kind == "causal":
        assert np.array_equal(again.eval()(IDS).numpy(), model(IDS).numpy())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["causal", "score"])
def test_the_parts_of_all_processes_make_up_every_tensor(config, kind, layout):
    shapes = whole_shapes(config, kind)
    seen = {name: np.zeros(shape, int) for name, shape in shapes.items()}
    for rank in range(layout.world_size):
        for part in parts_of_rank(config, kind, layout, rank):
            assert part.shape == shapes[part.name]
            seen[part.name][part.slices] += 1
    is_tied = kind == "causal" and config.tie_word_embeddings and layout.pipeline > 1
    for name, count in seen.items():
        holders = tensor_copies(name, config, tensor_degree=layout.tensor) * layout.batch
        assert (count == holders * (2 if is_tied and name == EMBEDDING else 1)).all(), name


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_planner_counts_what_a_process_holds(config, layout):
    assert model_elements(config, "causal") == sum(parameter.size for parameter in build(config).parameters())
    for stage in range(layout.pipeline):
        group = Group("tensor", range(layout.tensor))
        model = build(config, placement=Placement(group, stage, layout.pipeline))
        held = {part.name: part.extent for part in Held.of(config, "causal", layout, stage).parts}
        assert held == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_both_engines_answer_alike(config):
    model, options = build(config), GenerationOptions(max_new_tokens=12, do_sample=False)
    prompts, engines = [IDS[0].tolist(), IDS[1, :3].tolist()], [EagerEngine(model)]
    if CPU_KERNELS.obstacle(config) is None:
        engines.append(FusedEngine(model, FusedSettings(kv_memory="1MiB", block_tokens=16)))
    else:
        assert model_obstacle(config) or "no kernel library" in CPU_KERNELS.obstacle(config)
    row = prompts[1]
    for _ in range(12):  # the model itself, token by token
        row = [*row, int(model(np.array([row])).numpy()[0, -1].argmax())]
    for engine in engines:
        assert config.features <= engine.features
        engine.load_weights(None, 0)
        answers = engine.generate(prompts, options, seed=0, sequence_ids=[0, 1])
        assert answers[1].token_ids.tolist() == row[3:], type(engine).__name__
        assert [len(answer.token_ids) for answer in answers] == [12, 12]


def test_an_engine_that_lacks_a_feature_says_which(monkeypatch):
    config = make_config(next(iter(FAMILIES)))
    monkeypatch.setattr(DecoderConfig, "features", frozenset({*config.features, "softcap=30"}))
    message = f"cannot compute softcap=30 of this {config.model_type} model"
    assert CPU_KERNELS.obstacle(config) == model_obstacle(config) == f"the fused engine {message}"
    with pytest.raises(UserError, match=message):
        FusedEngine(build(config))
    with pytest.raises(UserError, match=f"no engine computes softcap=30 of this {config.model_type} model"):
        EagerEngine(build(config))
    monkeypatch.setattr(EagerEngine, "features", config.features)
    EagerEngine(build(config))


@pytest.mark.parametrize("family", PADDLENLP)
def test_in_words_of_paddlenlp_it_is_the_same_model(family):
    config = make_config(family)
    theirs = to_paddlenlp(config.to_dict(), head_dim=config.head_dim, place="here")
    again = DecoderConfig.from_dict({**theirs, "pad_token_id": config.pad_token_id})
    assert again == config


@pytest.mark.interop
def test_transformers_computes_the_same_logits(config, tmp_path):
    if config.model_type == "internlm2":  # transformers lacks its code
        return
    import torch
    from transformers import AutoModelForCausalLM

    model = build(config)
    save_model(tmp_path, model, None)
    peer, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    assert {key: list(found) for key, found in info.items() if found} == {}
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(peer).__name__]
    with torch.no_grad():
        wanted = peer.eval()(input_ids=torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(model(IDS).numpy(), wanted, atol=1e-4)


@pytest.mark.interop
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "internlm2"])  # transformers lacks its code
def test_absent_keys_mean_what_transformers_makes_of_them(family):
    from transformers import AutoConfig

    given = {"hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 45, "intermediate_size": 48}
    theirs = AutoConfig.for_model(family, **given)
    ours = DecoderConfig.from_dict({**given, "num_hidden_layers": theirs.num_hidden_layers, "model_type": family})
    names = ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "sliding_window")
    names += ("initializer_range", "bos_token_id", "pad_token_id")
    differences = {
        name: (
            getattr(ours, name, None),
            getattr(theirs, FAMILIES[family].key(name), getattr(ours, name, None)) or None,
        )
        for name in names
    }
    if family == "falcon":
        del differences["num_key_value_heads"]  # multi_query overrules it there
    differences = {name: (pair[0] or None, pair[1]) for name, pair in differences.items()}  # 0 windows are none
    flags = {flag: key for flag, key in FAMILIES[family].flags.items() if key in flag_keys(family)}
    differences |= {flag: (getattr(ours, flag), getattr(theirs, key)) for flag, key in flags.items()}
    assert {name: pair for name, pair in differences.items() if pair[0] != pair[1]} == {}
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 4096 // 32)


def _compares_a_family(node):
    """Return whether a node of the syntax tree compares something with the name of a family."""
    words = {*FAMILIES, *(alias for name in FAMILIES for alias in FAMILIES[name].aliases)}
    if isinstance(node, ast.Compare):
        inner = [leaf for side in (node.left, *node.comparators) for leaf in ast.walk(side)]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
        inner = [leaf for argument in node.args for leaf in ast.walk(argument)]
    elif isinstance(node, ast.MatchValue):
        inner = list(ast.walk(node))
    else:
        return False
    return any(isinstance(leaf, ast.Constant) and leaf.value in words for leaf in inner)


def test_nothing_but_its_table_knows_a_family():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _compares_a_family(node)
    ]
    assert found == []
