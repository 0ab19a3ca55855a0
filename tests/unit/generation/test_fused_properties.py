"""Random schedules: the same tokens whatever the order, slots, blocks and chunks, and every block comes back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.kernels import CPU_KERNELS
from alignment.ops.native.library import find_core
from tests.emulated import emulated_kernels
from tests.tiny_models import tiny_causal
from tests.unit.generation import fake_rows

happened: Counter[str] = Counter()


@st.composite
def schedules(draw):
    """Return prompts (some equal), limits, ids in a random order, and the settings of an engine they fit in."""
    distinct = draw(st.lists(st.lists(st.integers(0, 22), min_size=1, max_size=14), min_size=1, max_size=4))
    prompts = draw(st.lists(st.sampled_from(distinct), min_size=1, max_size=9))
    limits = draw(st.lists(st.integers(1, 14), min_size=len(prompts), max_size=len(prompts)))
    ids = draw(st.permutations(range(len(prompts))))
    block_tokens = draw(st.sampled_from([1, 2, 4, 16]))
    least = max(blocks_for(len(p) + n - 1, block_tokens) for p, n in zip(prompts, limits, strict=True))
    return dict(
        prompts=prompts,
        limits=limits,
        ids=ids,
        block_tokens=block_tokens,
        num_blocks=least + draw(st.integers(0, 12)),
        num_slots=draw(st.integers(1, 6)),
        max_rows=draw(st.integers(1, 20)),
        stops=draw(st.sampled_from([(), (3,), (1, 5, 9, 20)])),
    )


@settings(max_examples=1000)
@given(schedule=schedules())
def run_schedule(schedule):
    batch = fake_rows.Batch(**schedule)
    table = fake_rows.stop_table(*schedule["stops"])
    rows = zip(schedule["prompts"], schedule["limits"], schedule["ids"], batch.completions, strict=True)
    for prompt, limit, sequence_id, completion in rows:
        tokens = fake_rows.answer_alone(prompt, limit, sequence_id, table)
        assert completion.token_ids.tolist() == tokens
        assert completion.logprobs.tolist() == (np.array(tokens, np.float32) / 7).tolist()
        assert completion.finish_reason == ("stop" if table[tokens[-1]] else "length")
    assert batch.paging.num_free == batch.paging.num_blocks, "blocks leaked"
    assert sum(batch.progress) == sum(map(len, batch.answers))
    assert max(batch.model.row_counts) <= max(schedule["max_rows"], schedule["num_slots"] + 1)
    happened["schedules"] += 1
    happened["preempted"] += batch.scheduler.counts.preemptions > 0
    happened["copied"] += batch.paging.counts.copies > 0
    happened["shared"] += batch.paging.counts.shared_tokens > 0
    happened["forgotten"] += batch.paging.counts.forgotten > 0


def test_a_thousand_random_schedules_give_the_tokens_of_sequences_alone():
    happened.clear()
    run_schedule()
    assert happened["schedules"] >= 1000
    for event in ("preempted", "copied", "shared", "forgotten"):
        assert happened[event] >= 20, happened


def real_engine(kernels=CPU_KERNELS, head_dim=8, **settings):
    """Return a fused engine with random weights, and its prompts' vocabulary is that of the schedules."""
    sizes = dict(vocab_size=23, hidden_size=16, intermediate_size=32, num_hidden_layers=1, max_position_embeddings=64)
    model = tiny_causal(std=0.5, head_dim=head_dim, **sizes)
    engine = FusedEngine(model, FusedSettings(block_tokens=16, **settings), kernels=kernels)
    engine.load_weights(None, 0)
    return engine


def compare_schedules(*, examples, bytes_of_block, **which):
    """Compare random schedules with sequences alone, to the bit; return how often there was preemption and copying."""
    alone = real_engine(num_slots=1, **which)
    counted = Counter()

    @settings(max_examples=examples)
    @given(schedule=schedules(), lengthen=st.integers(1, 2))
    def compare(schedule, lengthen):
        prompts, ids = [prompt * lengthen for prompt in schedule["prompts"]], schedule["ids"]
        options = GenerationOptions(max_new_tokens=30, stop_token_ids=schedule["stops"])
        longest = max(map(len, prompts)) + 29
        blocks = blocks_for(longest, 16) + schedule["num_blocks"] % 3
        how = {name: schedule[name] for name in ("num_slots", "max_rows")}
        engine = real_engine(kv_memory=blocks * bytes_of_block, **how, **which)
        found = engine.generate(prompts, options, seed=3, sequence_ids=ids)
        counted.update(preemptions=engine.counts.preemptions, copies=engine.counts.copies)
        for completion, prompt, sequence_id in zip(found, prompts, ids, strict=True):
            (wanted,) = alone.generate([prompt], options, seed=3, sequence_ids=[sequence_id])
            assert completion.token_ids.tolist() == wanted.token_ids.tolist()
            assert completion.logprobs.tolist() == wanted.logprobs.tolist()

    compare()
    return counted


def test_random_schedules_change_no_bit_of_the_kernels():
    if find_core().core is None:
        pytest.skip(find_core().reason)
    counted = compare_schedules(examples=120, bytes_of_block=4 * 16 * (8 + 16))
    assert counted["preemptions"] >= 20 and counted["copies"] >= 20


def test_random_schedules_change_no_bit_of_the_cuda_kernels():
    cuda = dict(kernels=emulated_kernels(), head_dim=32)
    counted = compare_schedules(examples=5, bytes_of_block=4 * 16 * 2 * 32, **cuda)
    assert counted["preemptions"] >= 1 and counted["copies"] >= 1


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_preempted_answer_is_still_known_to_the_repetition_penalty(penalty):
    if find_core().core is None:
        pytest.skip(find_core().reason)
    prompts = [list(range(first, first + 9)) for first in range(12)]
    options = GenerationOptions(max_new_tokens=30, repetition_penalty=penalty)
    alone, squeezed = real_engine(num_slots=1), real_engine(num_slots=12, kv_memory=8 * 4 * 16 * (8 + 16))
    found, wanted = (e.generate(prompts, options, seed=3, sequence_ids=range(12)) for e in (squeezed, alone))
    assert squeezed.counts.preemptions > 0
    assert [c.token_ids.tolist() for c in found] == [c.token_ids.tolist() for c in wanted]
    assert [c.logprobs.tolist() for c in found] == [c.logprobs.tolist() for c in wanted]
