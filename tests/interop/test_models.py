"""Models made by transformers are read here, and models written here are read by transformers, with the same logits."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.commands.export import export_model
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.naming import is_transposed
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parity.subjects import TOKENIZER
from alignment.records import TokenBatch

pytestmark = pytest.mark.interop

TOLERANCE = 1e-4
VOCAB, PAD, EOS = 64, 0, 2
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=EOS,
    attn_implementation="eager",
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
CAUSAL = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama-all-heads": ("Llama", dict(num_key_value_heads=4, rms_norm_eps=1e-5)),
    "llama-biases": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-wide-heads": ("Llama", dict(head_dim=16)),
    "llama-3-rope": ("Llama", dict(rope_parameters=LLAMA3_ROPE)),
    "llama-linear-rope": ("Llama", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=5e5))),
    "mistral": ("Mistral", dict(sliding_window=None)),
    "mistral-window": ("Mistral", dict(sliding_window=4)),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=0)),
    "qwen2-window-in-no-layer": ("Qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=3)),
    "qwen3": ("Qwen3", dict(head_dim=12)),
    "qwen3-tied": ("Qwen3", dict(head_dim=8, tie_word_embeddings=True)),
}
SCORED = {
    "llama": ("Llama", {}),
    "llama-all-heads": ("Llama", dict(num_key_value_heads=4)),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(head_dim=12)),
}
LENGTHS = np.array([11, 3, 8, 1])
IDS = np.random.default_rng(0).integers(3, VOCAB, (4, 11))
IDS[0, 10] = IDS[2, 7] = EOS
REAL = np.arange(11)[None] < LENGTHS[:, None]
IDS[~REAL] = PAD


@pytest.fixture
def make(torch, transformers):
    """Build a model of transformers whose every parameter matters: none is left at 0 or 1."""

    def build(family, kind, changes):
        config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes}, num_labels=1)
        model = getattr(transformers, f"{family}For{kind}")(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
        return model.eval()

    return build


@pytest.fixture
def ask_peer(torch):
    """Return a function: logits of a model of transformers on the right-padded rows."""

    def ask(model):
        with torch.no_grad():
            inputs = dict(input_ids=torch.tensor(IDS), attention_mask=torch.tensor(REAL.astype(np.int64)))
            return model(**inputs).logits.float().numpy()

    return ask


@pytest.fixture
def reload(torch, transformers):
    """Return a function: the model that transformers' Auto class finds in a folder, every tensor accounted for."""

    def load(folder, kind):
        model, info = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
        )
        assert {key: list(found) for key, found in info.items() if found} == {}
        return model.eval()

    return load


def ask_ours(model):
    model.eval()
    with paddle.no_grad():
        return model(IDS, lengths=LENGTHS).astype("float32").numpy()


def our_scores(model):
    batch = TokenBatch.build([row[:n] for row, n in zip(IDS, LENGTHS, strict=True)], [np.empty(0, np.int64)] * 4)
    model.eval()
    with paddle.no_grad():
        return model.read_end_scores(batch).numpy()


def assert_same(ours, theirs, *, at_least=0.5):
    """Compare; the values are large enough for the comparison to mean something."""
    assert ours.shape == theirs.shape
    assert abs(theirs).max() > at_least
    assert abs(ours - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("name", CAUSAL)
def test_language_models_there_and_back(name, make, ask_peer, reload, tmp_path):
    family, changes = CAUSAL[name]
    peer = make(family, "CausalLM", changes)
    peer.save_pretrained(tmp_path / "theirs")
    expected = ask_peer(peer)
    model = load_causal_lm(tmp_path / "theirs")
    assert_same(ask_ours(model)[REAL], expected[REAL])
    save_model(tmp_path / "ours", model, None)
    again = reload(tmp_path / "ours", "CausalLM")
    assert type(again) is type(peer)
    assert_same(ask_peer(again)[REAL], expected[REAL])


@pytest.mark.parametrize("name", SCORED)
def test_score_models_there_and_back(name, make, ask_peer, reload, tmp_path):
    family, changes = SCORED[name]
    peer = make(family, "SequenceClassification", changes)
    peer.save_pretrained(tmp_path / "theirs")
    expected = ask_peer(peer)[:, 0]
    model = load_score_model(tmp_path / "theirs")
    assert_same(our_scores(model), expected)
    save_model(tmp_path / "ours", model, None)
    again = reload(tmp_path / "ours", "SequenceClassification")
    assert type(again) is type(peer)
    assert_same(ask_peer(again)[:, 0], expected)


@pytest.mark.parametrize("pad", [None, EOS])
def test_the_end_of_an_answer_is_no_padding(pad, make, ask_peer, reload, torch, tmp_path):
    """Hugging Face finds the last token through the padding id, so that must not be the EOS that ends an answer."""
    peer = make("Llama", "SequenceClassification", {})
    expected = ask_peer(peer)[:, 0]
    peer.config.pad_token_id = pad
    peer.save_pretrained(tmp_path / "theirs")
    model = load_score_model(tmp_path / "theirs")
    assert_same(our_scores(model), expected)
    save_model(tmp_path / "ours", model, None)
    again = reload(tmp_path / "ours", "SequenceClassification")
    with torch.no_grad():
        alone = [again(input_ids=torch.tensor(row[None, :n])).logits for row, n in zip(IDS, LENGTHS, strict=True)]
    assert_same(np.array([float(logits[0, 0]) for logits in alone]), expected)


@pytest.mark.parametrize("name", ["llama", "qwen2-tied"])
def test_shards(name, make, ask_peer, tmp_path):
    family, changes = CAUSAL[name]
    peer = make(family, "CausalLM", changes)
    peer.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same(ask_ours(load_causal_lm(tmp_path))[REAL], ask_peer(peer)[REAL])


def test_bfloat16_files(make, ask_peer, reload, torch, tmp_path):
    make("Llama", "CausalLM", {}).to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    expected = ask_peer(reload(tmp_path / "theirs", "CausalLM"))
    assert_same(ask_ours(load_causal_lm(tmp_path / "theirs"))[REAL], expected[REAL])
    save_model(tmp_path / "ours", load_causal_lm(tmp_path / "theirs", dtype="bfloat16"), None)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same(ask_peer(reload(tmp_path / "ours", "CausalLM"))[REAL], expected[REAL])


def test_a_reward_model_in_bfloat16_gives_the_same_scores(make, ask_peer, reload, torch, transformers, tmp_path):
    """The body is rounded once, by the export; the head stays float32, and transformers rounds it too when it is not
    told a dtype.
    """
    make("Llama", "SequenceClassification", {}).save_pretrained(tmp_path / "theirs")
    save_model(tmp_path / "run" / "reward", load_score_model(tmp_path / "theirs"), load_tokenizer(TOKENIZER))
    export_model(tmp_path / "run", tmp_path / "out", dtype="bfloat16")
    ours = load_score_model(tmp_path / "out")
    expected = our_scores(ours)
    assert_same(ask_peer(reload(tmp_path / "out", "SequenceClassification"))[:, 0], expected)
    untold = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in untold.parameters()} == {torch.bfloat16}
    rounded = ours.score.weight.astype("bfloat16").astype("float32").numpy().T
    np.testing.assert_array_equal(untold.score.weight.float().detach().numpy(), rounded)


def test_weights_come_back_bit_for_bit(make, reload, tmp_path):
    peer = make("Qwen2", "CausalLM", {})
    peer.save_pretrained(tmp_path / "theirs")
    model = load_causal_lm(tmp_path / "theirs")
    save_model(tmp_path / "ours", model, None)
    again = dict(reload(tmp_path / "ours", "CausalLM").named_parameters())
    ours = dict(model.named_parameters())
    for name, parameter in peer.named_parameters():
        theirs = parameter.detach().numpy()
        assert np.array_equal(again[name].detach().numpy(), theirs), name
        assert np.array_equal(ours[name].numpy(), theirs.T if is_transposed(name) else theirs), name


def test_a_reward_model_can_start_from_a_language_model(make, ask_peer, torch, tmp_path):
    peer = make("Llama", "CausalLM", {})
    peer.save_pretrained(tmp_path)
    model = load_score_model(tmp_path, new_score_head=True, seed=3)
    with torch.no_grad():
        hidden = peer.model(torch.tensor(IDS)).last_hidden_state.numpy()
    last = hidden[np.arange(4), LENGTHS - 1]
    assert_same(our_scores(model), (last @ model.score.weight.numpy())[:, 0], at_least=0.02)
