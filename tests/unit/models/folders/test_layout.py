"""Which way round matrices stand is declared by the files and shown by those that are not square."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.folders import hub
from alignment.models.folders.saving import save_model
from alignment.models.folders.views import Cut, Joined, Renamed, Reshaped, Transposed
from alignment.models.safetensors_io import Stored

SQUARE = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 16,
}
LONG = {**SQUARE, "intermediate_size": 12}


def write(folder, raw, *, turn=False, prefix="model.", tag="pt"):
    """Write a model; ``turn``: [in, out]. Return its logits on fixed ids."""
    model = CausalLM(DecoderConfig.from_dict(raw))
    draw_weights(model, seed=0, std=0.3)
    save_model(folder, model, None)
    tensors = load_file(folder / "model.safetensors")
    changed = {
        name.replace("model.", prefix, 1): np.ascontiguousarray(array.T if turn and is_matrix(name) else array)
        for name, array in tensors.items()
    }
    save_file(changed, folder / "model.safetensors", {"format": tag} if tag else None)
    return compute(model)


def is_matrix(name):
    return name.endswith("_proj.weight") or name == "lm_head.weight"


def compute(model):
    model.eval()
    return model(paddle.to_tensor([[3, 1, 4, 1, 5]])).numpy()


@pytest.mark.parametrize(
    ("raw", "turn", "prefix", "tag"),
    [
        (SQUARE, False, "model.", "pt"),
        (SQUARE, False, "model.", None),
        (SQUARE, False, "model.", "mlx"),
        (SQUARE, True, "llama.", "np"),
        (SQUARE, True, "llama.", None),
        (LONG, False, "model.", "pt"),
        (LONG, False, "model.", "np"),  # numpy may write any layout: the matrices decide
        (LONG, True, "model.", "np"),
        (LONG, True, "llama.", "np"),
        (LONG, True, "llama.", "pt"),
        (LONG, False, "llama.", "pt"),
    ],
)
def test_the_layout_is_found(tmp_path, raw, turn, prefix, tag):
    expected = write(tmp_path, raw, turn=turn, prefix=prefix, tag=tag)
    np.testing.assert_array_equal(compute(hub.load_causal_lm(tmp_path)), expected)


@pytest.mark.parametrize(
    ("raw", "turn", "prefix", "tag", "message"),
    [
        (
            SQUARE,
            False,
            "model.",
            "np",
            "it cannot be told whether its matrices are .*format 'np' and model.* is a name",
        ),
        (SQUARE, True, "llama.", "pt", "it cannot be told whether its matrices are .*format 'pt'"),
        (LONG, True, "model.", "pt", r"down_proj.weight shows that its matrices are \[in, out\].*but.*say format 'pt'"),
        (LONG, True, "model.", None, r"shows that its matrices are \[in, out\].*but model\..* is a name of Hugging"),
        (LONG, False, "llama.", "np", r"shows that its matrices are \[out, in\].*but its files say format 'np'"),
    ],
)
def test_contradictions_are_refused_by_name(tmp_path, raw, turn, prefix, tag, message):
    write(tmp_path, raw, turn=turn, prefix=prefix, tag=tag)
    with pytest.raises(ModelFolderError, match=message) as refused:
        hub.load_causal_lm(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_one_matrix_the_other_way_round_is_named(tmp_path):
    write(tmp_path, LONG)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: np.ascontiguousarray(tensors[name].T)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelFolderError, match=r"up_proj.weight is stored \[in, out\] and .*\[out, in\]; one of the two"
    ):
        hub.load_causal_lm(tmp_path)


@pytest.mark.parametrize("kind", ["alibi", "use_long_sequence_strategies"])
def test_what_paddlenlp_computes_in_another_way_is_refused(kind):
    with pytest.raises(ModelFolderError, match=f"{kind} is not supported"):
        DecoderConfig.from_dict({**LONG, "paddlenlp_version": "3", kind: True})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope_scaling_type": "yarn"}, "rope_scaling_type 'yarn' is not supported .kinds: linear, dynamic_ntk, ntk"),
        ({"rope_scaling_type": "linear", "model_type": "qwen2"}, "in a 'qwen2' model: PaddleNLP ignores it"),
        ({"rope_scaling_type": "linear", "rope_scaling_factor": "x"}, "a number of at least 1, found 'x'"),
        ({"rope_scaling_type": "ntk", "rope_scaling_factor": 2.0, "num_attention_heads": 4}, "needs the sizes"),
    ],
)
def test_rotary_embeddings_of_paddlenlp_that_cannot_be_said_are_refused(keys, message):
    with pytest.raises(ModelFolderError, match=message):
        DecoderConfig.from_dict({**LONG, **keys})


class Held:
    """A tensor in memory that counts the numbers it gives."""

    code, is_float = "F32", True

    def __init__(self, name, array, is_bfloat16=False):
        self.name, self.shape, self.given = name, array.shape, 0
        self._array, self._is_bfloat16 = array, is_bfloat16

    def read(self, slices=()):
        self.given += self._array[slices].size
        return Stored(self.name, self._array[slices], self._is_bfloat16)


GRID = np.arange(24, dtype=np.float32).reshape(4, 6)
CUT = (slice(1, 3), slice(2, 5))


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (lambda t: Renamed(t, "b"), GRID),
        (lambda t: Transposed(Transposed(t)), GRID),
        (lambda t: Transposed(Held("a", np.ascontiguousarray(GRID.T))), GRID),
        (lambda t: Cut(Held("a", np.hstack([GRID, GRID])), 6, 12), GRID),
        (lambda t: Joined.of([Held("a", GRID[:, :2]), Held("a", GRID[:, 2:3]), Held("a", GRID[:, 3:])], 1), GRID),
        (lambda t: Joined.of([Held("a", GRID[:2]), Held("a", GRID[2:])], 0), GRID),
        (lambda t: Reshaped(Held("a", GRID.ravel()), (4, 6)), GRID),
    ],
)
def test_a_view_shows_the_whole_and_every_rectangle(view, expected):
    tensor = view(Held("a", GRID))
    assert tensor.shape == (4, 6) and tensor.is_float and tensor.code == "F32"
    np.testing.assert_array_equal(tensor.read().array, expected)
    np.testing.assert_array_equal(tensor.read(CUT).array, expected[CUT])
    assert tensor.read((slice(2, 2), slice(0, 6))).array.shape == (0, 6)


def test_of_joined_tensors_only_the_needed_ones_are_read():
    parts = [Held("a", GRID[:2]), Held("a", GRID[2:])]
    np.testing.assert_array_equal(Joined.of(parts, 0).read((slice(2, 4), slice(0, 6))).array, GRID[2:])
    assert [part.given for part in parts] == [0, 12]


def test_parts_of_different_dtypes_are_joined_in_float32():
    bits = Held("a", np.array([[0x3F80, 0x4000]], np.uint16), is_bfloat16=True)
    joined = Joined.of([bits, Held("a", np.array([[3.0, 4.0]], np.float32))], 0).read()
    assert not joined.is_bfloat16 and joined.array.tolist() == [[1, 2], [3, 4]]
