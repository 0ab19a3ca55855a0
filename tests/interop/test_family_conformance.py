"""Every family of PEERS: a small random model of transformers read, run, differentiated and written here.

A new family gets all of it by one row: logits and gradients on ragged rows, greedy answers of both engines, a folder
there and back, a reward head both ways, bfloat16 and sharded files, and the spellings of config.json.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest

from alignment.architecture.families import FAMILIES
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.kernels import CPU_KERNELS
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.saving import save_model
from alignment.records import TokenBatch
from tests.peer_families import PEERS, Peer, peer_config

pytestmark = pytest.mark.interop

LOGITS, GRADIENTS = 1e-5, 1e-4
LENGTHS = np.array([11, 3, 8, 1])
IDS = np.random.default_rng(0).integers(3, 61, (4, 11))
REAL = np.arange(11)[None] < LENGTHS[:, None]
IDS[~REAL] = 0


class Pair(NamedTuple):
    """A model of transformers, and the same one here."""

    theirs: Any
    ours: Any
    folder: Any


def draw(torch, transformers, peer: Peer, kind: str = "CausalLM", **changes):
    """Return a model of transformers whose every parameter matters: none is left at 0 or 1."""
    torch.manual_seed(1)
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(peer_config(transformers, peer, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            wide = 0.2 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * wide)
    return model.eval()


@pytest.fixture(scope="module", params=PEERS)
def pair(request, torch, transformers, tmp_path_factory):
    """A pair of each row of PEERS."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    theirs = draw(torch, transformers, PEERS[request.param])
    theirs.save_pretrained(folder)
    return Pair(theirs, load_causal_lm(folder).eval(), folder)


def ask(torch, model):
    """Return the logits of a model of transformers on the right-padded rows."""
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(REAL.astype(np.int64))}
        return model(**inputs, use_cache=False).logits.float().numpy()


def assert_close(ours, theirs, tolerance):
    """Compare, relative to the largest of numbers above 1."""
    assert abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=tolerance * max(1.0, abs(theirs).max()), rtol=0)


def test_every_family_has_a_peer():
    tested_elsewhere = {"llama", "mistral", "qwen2", "qwen3"}  # test_models.py
    assert {peer.model_type for peer in PEERS.values()} | tested_elsewhere | WITHOUT_PEER == set(FAMILIES)


WITHOUT_PEER = {"internlm2"}
"""Families whose code is not in transformers."""


def test_logits_on_ragged_rows(torch, pair):
    with paddle.no_grad():
        ours = pair.ours(IDS, lengths=LENGTHS).numpy()
    assert_close(ours[REAL], ask(torch, pair.theirs)[REAL], LOGITS)


def test_gradients(torch, transformers, pair, tmp_path):
    rows = [row[:n] for row, n in zip(IDS[:3], LENGTHS, strict=False)]
    batch = TokenBatch.build(rows, [np.arange(2, len(row)) for row in rows])
    model = pair.ours.train()
    policy_logprobs(model, batch, temperature=1.0, with_entropy=False)[0].sum().backward()
    ours = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    model.clear_gradients()
    model.eval()
    theirs = pair.theirs
    total = 0
    for row, n in zip(IDS[:3], LENGTHS, strict=False):
        ids = torch.tensor(row[None, :n])
        logprobs = theirs(ids).logits.log_softmax(-1)[0, 1 : n - 1]
        total = total + logprobs.gather(1, ids[0, 2:n, None]).sum()
    theirs.zero_grad()
    total.backward()
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in theirs.named_parameters()
    }
    theirs.zero_grad()
    kept = {name: parameter.detach().clone() for name, parameter in theirs.named_parameters()}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(gradients[name])
    theirs.save_pretrained(tmp_path)  # so that names and layouts are those of weights
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(kept[name])
    wanted = dict(load_causal_lm(tmp_path).named_parameters())
    for name, gradient in ours.items():
        np.testing.assert_allclose(gradient, wanted[name].numpy(), atol=GRADIENTS, rtol=GRADIENTS, err_msg=name)


def test_both_engines_answer_as_transformers(torch, pair):
    prompts = [IDS[0].tolist(), IDS[1, :3].tolist()]
    options = GenerationOptions(max_new_tokens=9, do_sample=False)
    wanted = []
    for prompt in prompts:
        row = list(prompt)
        for _ in range(9):
            with torch.no_grad():
                row.append(int(pair.theirs(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        wanted.append(row[len(prompt) :])
    engines = [EagerEngine(pair.ours)]
    if CPU_KERNELS.obstacle(pair.ours.config) is None:
        engines.append(FusedEngine(pair.ours, FusedSettings(kv_memory="1MiB", block_tokens=16)))
    for engine in engines:
        engine.load_weights(None, 0)
        answers = engine.generate(prompts, options, seed=0, sequence_ids=[0, 1])
        assert [answer.token_ids.tolist() for answer in answers] == wanted, type(engine).__name__


def test_a_folder_written_here_is_the_same_model_there(torch, transformers, pair, tmp_path):
    save_model(tmp_path, pair.ours, None)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    assert {key: list(found) for key, found in info.items() if found} == {}
    assert type(again) is type(pair.theirs)
    np.testing.assert_array_equal(ask(torch, again.eval())[REAL], ask(torch, pair.theirs)[REAL])


def test_a_reward_head_both_ways(torch, transformers, pair, request, tmp_path):
    peer = PEERS[request.node.callspec.params["pair"]]
    if not hasattr(transformers, f"{peer.class_name}ForSequenceClassification"):
        pytest.skip("transformers has no such class")
    theirs = draw(torch, transformers, peer, "SequenceClassification", num_labels=1)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_score_model(tmp_path / "theirs").eval()
    rows = [row[:n] for row, n in zip(IDS, LENGTHS, strict=True)]
    batch = TokenBatch.build(rows, [np.empty(0, np.int64)] * len(rows))
    with torch.no_grad():
        wanted = np.array([theirs(torch.tensor(row[None])).logits.item() for row in rows])
    with paddle.no_grad():
        assert_close(ours.read_end_scores(batch).numpy().ravel(), wanted, LOGITS)
    save_model(tmp_path / "ours", ours, None)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        assert_close(np.array([again(torch.tensor(row[None])).logits.item() for row in rows]), wanted, LOGITS)
    language_model = load_score_model(pair.folder, new_score_head=True, seed=None)
    assert not np.any(language_model.score.weight.numpy())


def test_half_precision_and_shards(torch, pair, tmp_path):
    wide = type(pair.theirs).from_pretrained(pair.folder)
    wide.to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    rounded = type(wide).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    with paddle.no_grad():
        ours = load_causal_lm(tmp_path).eval()(IDS, lengths=LENGTHS).numpy()
    assert_close(ours[REAL], ask(torch, rounded)[REAL], LOGITS)


def test_older_spellings_mean_the_same(pair, request, tmp_path):
    peer = PEERS[request.node.callspec.params["pair"]]
    raw = json.loads((pair.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(peer.as_written_by_4(raw)))
    from alignment.models.config import read_config

    assert read_config(tmp_path) == read_config(pair.folder)
