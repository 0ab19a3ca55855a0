"""Folders of the field: logits, scores and rows are those of transformers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.data.sources.packing import TOKENIZER
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import load_causal_lm, load_score_model, random_causal_lm, random_score_model
from alignment.models.folders.saving import save_model
from alignment.models.folders.sequence_ends import sequence_ends
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import Rollout, TokenBatch
from alignment.rollout.rewards.retokenize import BeforePadding, SameTokens
from alignment.runs.models import adopt
from alignment.trainers.registered import TRAINERS
from tests.interop.test_tokenizers import CHATML, byte_level_bpe
from tests.interop.test_tokenizers import write as write_tokenizer

pytestmark = pytest.mark.interop

TOLERANCE = 1e-4
SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
IDS = np.random.default_rng(0).integers(3, 64, (2, 48))


@pytest.fixture
def write(torch, transformers, tmp_path):
    """Write a language model with drawn weights to a folder; keyword arguments go into its config.json."""

    def write(**keys):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
        model.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return tmp_path

    return write


@pytest.fixture
def ask_peer(torch, transformers):
    """Return the logits of transformers for the model in a folder."""

    def ask(folder, ids=IDS):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            return model.eval()(torch.tensor(ids)).logits.numpy()

    return ask


def ask_ours(folder, ids=IDS):
    with paddle.no_grad():
        return load_causal_lm(folder)(ids).numpy()


def assert_same(ours, theirs):
    assert abs(theirs).max() > 0.5
    assert abs(ours - theirs).max() <= TOLERANCE


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
ROPES = {
    "linear, beside rope_parameters": {"type": "linear", "factor": 4.0},
    "yarn, four times as long": YARN,
    "yarn, length not said": {"type": "yarn", "factor": 4.0},
    "yarn, by magnitude": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5},
    "llama3, length not said": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


@pytest.mark.parametrize("name", ROPES)
def test_rope_scaling_added_by_hand(name, write, ask_peer):
    """As transformers 5 writes ``rope_parameters``, a ``rope_scaling`` beside it wins, there and here."""
    folder = write(rope_scaling=ROPES[name])
    assert "rope_parameters" in json.loads((folder / "config.json").read_text())
    plain, expected = ask_ours(write()), ask_peer(write(rope_scaling=ROPES[name]))
    assert abs(plain - expected).max() > 0.1, "the setting matters"
    assert_same(ask_ours(folder), expected)


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0, "rope_scaling": YARN}),
        ("Mistral", {"sliding_window": 8, "layer_types": ["full_attention"] * 2}),
    ],
)
def test_windows_beside_what_overrules_them(family, keys, torch, transformers, tmp_path, ask_peer):
    """A window as long as the positions counts where yarn stretches those; a list of full layers has none."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "layer_types"}
    path.write_text(json.dumps(kept | keys))
    assert_same(ask_ours(tmp_path), ask_peer(tmp_path))


def test_dynamic_rope_up_to_its_positions(write, ask_peer):
    folder = write(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    assert_same(ask_ours(folder, IDS[:, :16]), ask_peer(folder, IDS[:, :16]))


@pytest.mark.parametrize("engine", [EagerEngine, FusedEngine])
def test_yarn_generates_beyond_the_positions_of_its_training(engine, write, torch, transformers):
    folder = write(rope_scaling=YARN)
    model = load_causal_lm(folder)
    engine = engine(model)
    engine.load_weights(None, version=0)
    options = GenerationOptions(max_new_tokens=24, do_sample=False)
    [completion] = engine.generate([IDS[0, :30]], options, seed=0, sequence_ids=[0])
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    theirs = peer.generate(torch.tensor(IDS[:1, :30]), max_new_tokens=24, do_sample=False, eos_token_id=None)
    assert completion.token_ids.tolist() == theirs[0, 30:].tolist()


def test_a_head_beside_a_tied_embedding(write, ask_peer):
    folder = write(tie_word_embeddings=True)
    assert_same(ask_ours(folder), ask_peer(folder))


def test_a_stale_index_beside_a_single_file(write, ask_peer, torch):
    from safetensors.torch import load_file, save_file

    folder = write()
    stale = {name: tensor * 2 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(stale, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    weight_map = dict.fromkeys(stale, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_same(ask_ours(folder), ask_peer(folder))


def test_several_ends_stop_both_engines_where_transformers_stops(write, torch, transformers):
    """The tokenizer would name 2, config.json 7 and generation_config.json a third one: any of them ends a row."""
    folder = write(eos_token_id=7)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    prompts = [row[:5] for row in np.random.default_rng(1).integers(3, 64, (8, 5))]
    free = [peer.generate(torch.tensor(p[None]), max_new_tokens=9, do_sample=False, eos_token_id=None) for p in prompts]
    third = int(free[0][0, 8])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [third, 2]}))
    model = load_causal_lm(folder)
    ends = sequence_ends(model.config)
    assert ends == (7, third, 2)
    options = GenerationOptions(max_new_tokens=9, do_sample=False, stop_token_ids=ends)
    for engine in (EagerEngine(model), FusedEngine(model)):
        engine.load_weights(None, version=0)
        completions = engine.generate(prompts, options, seed=0, sequence_ids=range(8))
        assert completions[0].finish_reason == "stop" and len(completions[0].token_ids) <= 4
        for prompt, completion in zip(prompts, completions, strict=True):
            theirs = peer.generate(
                torch.tensor(prompt[None]), max_new_tokens=9, do_sample=False, eos_token_id=list(ends), pad_token_id=0
            )
            assert completion.token_ids.tolist() == theirs[0, 5:].tolist()


def test_a_reward_model_whose_tokenizer_pads_with_eos(tmp_path, torch, transformers):
    """Rows of a batch that AutoTokenizer pads score in transformers as they do alone, and as they do here."""
    load_tokenizer(TOKENIZER).save(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<eos>"}))
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "llama", "pad_token_id": 2}))
    model = random_score_model(tmp_path, ScoreOptions(), seed=3, tokenizer=tokenizer)
    draw_weights(model, seed=3, std=1.0)
    save_model(tmp_path / "out", model, tokenizer)
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.pad_token_id == peer.config.pad_token_id != theirs.eos_token_id
    texts = ["<user> pack apple <assistant> tent <eos>", "<user> pack <eos>", "<user> pack apple tent rope <eos>"]
    with torch.no_grad():
        together = peer(**theirs(texts, return_tensors="pt", padding=True)).logits[:, 0].numpy()
        alone = np.array([float(peer(**theirs([text], return_tensors="pt")).logits[0, 0]) for text in texts])
    batch = TokenBatch.build([np.array(tokenizer.encode(text)) for text in texts], [np.empty(0, np.int64)] * 3)
    with paddle.no_grad():
        ours = model.read_end_scores(batch).numpy()
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(ours, alone, atol=1e-4)


def test_transformers_reads_every_score_of_a_model_with_attributes(tmp_path, torch, transformers):
    tokenizer = load_tokenizer(TOKENIZER)
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "llama", "pad_token_id": 2}))
    labels = ("helpfulness", "correctness", "verbosity")
    model = random_score_model(tmp_path, ScoreOptions(labels=labels), seed=3, tokenizer=tokenizer)
    draw_weights(model, seed=3, std=1.0)
    save_model(tmp_path / "out", model, tokenizer)
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert peer.config.num_labels == 3 and tuple(peer.config.id2label.values()) == labels
    rows = [[3, 4, 5], [6, 7]]
    with torch.no_grad():
        theirs = np.array([peer(torch.tensor([row])).logits[0].numpy() for row in rows])
    batch = TokenBatch.build([np.array(row) for row in rows], [np.empty(0, np.int64)] * 2)
    np.testing.assert_allclose(model.read_end_scores(batch).numpy(), theirs, atol=1e-4)
    peer.save_pretrained(tmp_path / "theirs")
    again = load_score_model(tmp_path / "theirs", stored_head=StoredHead(keeps_attributes=True))
    assert again.options.labels == labels
    np.testing.assert_allclose(again.read_end_scores(batch).numpy(), theirs, atol=1e-4)


def test_scores_before_padding_are_those_of_transformers(tmp_path, torch, transformers):
    """A reward model trained elsewhere with pad = eos is read where transformers reads it."""
    torch.manual_seed(1)
    peer = transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(**{**SHAPE, "pad_token_id": 2}, num_labels=1)
    )
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.normal_(0.0, 0.3)
    peer.save_pretrained(tmp_path)
    prompts = [np.array([3, 4, 5]), np.array([6])]
    responses = [np.array([8, 9, 2]), np.array([10, 11])]
    rollout = Rollout(prompts=prompts, responses=responses, finish_reasons=("stop", "length"), group_ids=np.arange(2))
    rows = BeforePadding(SameTokens(), 2)(rollout)
    assert [row.tolist() for row in rows] == [[3, 4, 5, 8, 9], [6, 10, 11]]
    model = load_score_model(tmp_path)
    with paddle.no_grad():
        ours = model.read_end_scores(TokenBatch.build(rows, [np.empty(0, np.int64)] * 2)).numpy()
    with torch.no_grad():
        whole = [torch.tensor(np.concatenate(pair)[None]) for pair in zip(prompts, responses, strict=True)]
        theirs = np.array([float(peer.eval()(row).logits[0, 0]) for row in whole])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_base_model_with_a_chat_template_ends_at_its_turns_end(tmp_path, torch, transformers):
    """As Qwen2.5 base: the tokenizer ends with <|endoftext|>, the template with <|im_end|>; both are saved."""
    write_tokenizer(tmp_path, byte_level_bpe(), chat_template=CHATML, eos_token="<|endoftext|>")
    tokenizer = load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "llama", "vocab_size": len(tokenizer)}))
    arguments = ["--train_datasets", "x", "--model_name_or_path", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    parsed = TRAINERS["sft"].parse([*arguments, "--chat_template", "tokenizer"])
    model = random_causal_lm(tmp_path, seed=0, tokenizer=tokenizer)
    adopt(SimpleNamespace(parsed=parsed), model, tokenizer)
    save_model(tmp_path / "saved", model, tokenizer)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    ends = sorted(theirs.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert sorted(peer.generation_config.eos_token_id) == sorted(peer.config.eos_token_id) == ends
    assert sorted(sequence_ends(load_causal_lm(tmp_path / "saved").config, tokenizer)) == ends
