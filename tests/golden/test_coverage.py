"""Every oracle record is checked here, checked elsewhere, or belongs to an algorithm that is not built yet."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

TEST_FILES = {
    "safe_rlhf": (
        "test_safe_rlhf_ppo.py",
        "test_safe_rlhf_lagrangian.py",
        "test_safe_rlhf_preference.py",
        "test_dpo.py",
        "test_kto.py",
    ),
    "openrlhf": ("test_openrlhf.py", "test_dpo.py"),
    "trl": ("test_trl.py", "test_dpo.py", "test_kto.py", "test_distillation.py"),
}

ELSEWHERE = {
    "safe_rlhf": {
        "gather_log_probabilities": "token log-probs: tests of alignment.ops",
        "normalizers": "tests of alignment.models (score normalizers)",
        "end_scores": "tests of alignment.models (score model)",
        "dataset_mix": "tests of alignment.data (mixing)",
        "format_prompt": "tests of alignment.data (templates)",
        "paddlenlp.make_position_ids_2d": "right-padded sequences: positions are 0, 1, 2, ...; nothing to build",
        "paddlenlp.make_attention_mask": "masks come from lengths, never from token ids (a quirk not reproduced)",
        "paddlenlp.end_index_from_position_ids": "end index comes from lengths: tests of alignment.models",
        "paddlenlp.end_index_from_position_ids_single_token_row": "as above; the peer's answer is wrong here",
    },
    "openrlhf": {
        "token_logp()": "token log-probs: tests of alignment.ops",
        "token_logp_temperature(temperature=0.7)": "token log-probs: tests of alignment.ops",
        "entropy()": "entropy: tests of alignment.ops",
    },
    "trl": {
        "token_logp()": "token log-probs: tests of alignment.ops",
        "entropy()": "entropy: tests of alignment.ops",
    },
}

LATER = {
    "safe_rlhf": {
        "dpo_loss_safe_rlhf": "DPO family; its slice is off by one upstream and must not be reproduced",
        "paddlenlp.reward_running_norm": "running reward statistics kept by the trainer (the model normalises here)",
    },
    "openrlhf": {},
    "trl": {},
}
"""By the beginning of the key."""


@pytest.mark.parametrize("peer", ["safe_rlhf", "openrlhf", "trl"])
def test_every_record_has_a_place(peer, request):
    sources = "".join((HERE / name).read_text() for name in TEST_FILES[peer])
    places = {}
    for key in request.getfixturevalue(peer):
        # A paddlenlp.<name> case may be read through the tuple of names in the test.
        here = f'"{key}"' in sources or f'"{key.removeprefix("paddlenlp.")}"' in sources
        later = any(key.startswith(beginning) for beginning in LATER[peer])
        places[key] = (here, key in ELSEWHERE[peer], later)
    misplaced = {key: place for key, place in places.items() if sum(place) != 1}
    assert not misplaced, "records need exactly one of (tested here, elsewhere, later)"


@pytest.mark.parametrize("peer", ["safe_rlhf", "openrlhf", "trl"])
def test_lists_name_real_records(peer, request):
    keys = request.getfixturevalue(peer)
    assert set(ELSEWHERE[peer]) <= set(keys)
    unused = [beginning for beginning in LATER[peer] if not any(key.startswith(beginning) for key in keys)]
    assert not unused
