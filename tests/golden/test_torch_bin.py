"""Models in torch's pickled files give the logits of transformers; see ``benchmarks/torch_bin_golden.py``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from alignment.errors import ModelFolderError
from alignment.models.decoder.placement import Placement
from alignment.models.folders.hub import load_causal_lm
from alignment.parallel.comms.group import Group

FOLDERS = Path(__file__).parent / "torch_bin"


@pytest.mark.parametrize("name", ["model", "model-sharded"])
def test_logits_are_those_of_transformers(name):
    with np.load(FOLDERS / name / "outputs.npz") as file:
        ids, expected = file["ids"].astype(np.int64), file["outputs"]
    model = load_causal_lm(FOLDERS / name)
    model.eval()
    np.testing.assert_allclose(model(paddle.to_tensor(ids)).numpy(), expected, atol=1e-5)


def test_each_process_of_a_layout_holds_its_part():
    whole = dict(load_causal_lm(FOLDERS / "model").named_parameters())
    for rank in range(2):
        part = load_causal_lm(FOLDERS / "model-sharded", placement=Placement(Group("tensor", range(2), rank=rank)))
        for name, value in part.named_parameters():
            assert np.array_equal(value.numpy(), whole[name].numpy()[part.parts[name].slices]), name


def test_a_missing_shard_is_named(tmp_path):
    folder = shutil.copytree(FOLDERS / "model-sharded", tmp_path / "model")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ModelFolderError, match=r"index\.json names pytorch_model-00002-of-00002\.bin, which"):
        load_causal_lm(folder)


def test_other_pickled_files_of_a_training_are_not_opened(tmp_path):
    folder = shutil.copytree(FOLDERS / "model", tmp_path / "model")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pdparams", "adapter_model.bin"):
        (folder / name).write_bytes(b"cposix\nsystem\n.")
    load_causal_lm(folder)
