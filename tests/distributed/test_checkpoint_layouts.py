"""Checkpoints by real processes: any layout writes what any other reads, one process included."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ranks_checkpoint as ranks

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.errors import UserError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.saving import WeightSource, save_model
from alignment.parallel.local_ranks import run_ranks
from alignment.parallel.topology import Topology
from alignment.training.checkpoint import Checkpoint, CheckpointStore

pytestmark = pytest.mark.distributed
SHAPE = {
    "vocab_size": 43,
    "hidden_size": 32,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODELS = {
    "llama": {"model_type": "llama"},
    "tied qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
}
LAYOUTS = {
    "TP2xPP2": Layout(tensor=2, pipeline=2),
    "Sh2xTP2 stage 1": Layout(tensor=2, sharding=2, sharding_stage=1),
    "Sh4 stage 3": Layout(sharding=4, sharding_stage=3),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model folders that one process wrote."""
    root = tmp_path_factory.mktemp("models")
    for name, changes in MODELS.items():
        model = CausalLM(DecoderConfig.from_dict({**SHAPE, **changes}))
        draw_weights(model, seed=5, std=0.3)
        save_model(root / name, model, None)
    return {name: root / name for name in MODELS}


def test_every_layout_reads_what_every_other_wrote(models, tmp_path):
    written = [tmp_path / "one process"]
    for name, folder in models.items():
        model = load_causal_lm(folder)
        ranks.save(Topology(device="cpu"), WeightSource.of(model), model, written[0] / name)
    for name, layout in LAYOUTS.items():
        arguments = (layout, models, tmp_path / name, list(written))
        found = run_ranks(
            "ranks_checkpoint:save_and_restore", *arguments, world_size=4, search_path=[Path(__file__).parent]
        )
        assert all(all(same.values()) for same in found), found
        written.append(tmp_path / name)
    for folder in written:
        for name, source in models.items():
            check_whole(folder / name, source)


def check_whole(folder, source):
    """One process reads the model and the whole state."""
    checkpoint = Checkpoint(CheckpointStore(folder).newest())
    expected = load_causal_lm(source)
    found = dict(load_causal_lm(checkpoint.model_folder("policy")).named_parameters())
    for name, parameter in expected.named_parameters():
        np.testing.assert_array_equal(found[name].numpy(), parameter.numpy(), err_msg=f"{folder}: {name}")
    state = checkpoint.tensors(ranks.GROUP)
    whole = ranks.make_state(expected.parts)
    assert state.keys() == whole.keys()
    for key, array in whole.items():
        np.testing.assert_array_equal(state[key], array, err_msg=f"{folder}: {key}")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_killed_while_it_writes_leaves_the_checkpoint_before(models, tmp_path, victim):
    arguments = (Layout(tensor=2, pipeline=2), models["llama"], tmp_path, victim)
    with pytest.raises(UserError, match=rf"rank {victim}\] was ended by SIGKILL"):
        run_ranks("ranks_checkpoint:save_then_die", *arguments, world_size=4, search_path=[Path(__file__).parent])
    store = CheckpointStore(tmp_path)
    store.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    check_whole(tmp_path, models["llama"])
