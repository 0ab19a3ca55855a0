"""Whether a model has room for a tokenizer and a length, told from its config.json alone."""

from __future__ import annotations

import json

import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import ModelFolderError
from alignment.models.folders.hub import check_fit
from alignment.models.tokenizer.tokenizer import load_tokenizer

TINY = {
    "model_type": "llama",
    "vocab_size": 24,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 100,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 100),
        ({"rope_type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "dynamic", "factor": 4.0}, 100),
        ({"rope_type": "yarn", "factor": 4.0}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50}, 200),
        ({**LLAMA3, "original_max_position_embeddings": 10}, 100),
    ],
)
def test_positions(scaling, longest):
    assert DecoderConfig.from_dict({**TINY, "rope_scaling": scaling}).longest_sequence == longest


def test_what_does_not_fit_is_refused_with_both_numbers(tmp_path):
    tokenizer = load_tokenizer(TOKENIZER)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    for place in (tmp_path, path):
        assert check_fit(place, tokenizer, max_length=100).vocab_size == 24
    with pytest.raises(ModelFolderError, match="max_length=101 .*max_position_embeddings=100 .*at most 100"):
        check_fit(tmp_path, tokenizer, max_length=101)
    path.write_text(json.dumps({**TINY, "vocab_size": 23}))
    with pytest.raises(ModelFolderError, match="24 tokens, the model's vocabulary 23"):
        check_fit(tmp_path, tokenizer, max_length=100)
