"""Checks of csrc/cuda that run on a device and on the emulated library alike; each raises AssertionError.

``bits`` below: two results are compared as they are, without tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from cuda_cases import (
    FAMILIES,
    SAMPLINGS,
    VOCAB,
    Prompts,
    checksum,
    draw_logits,
    draw_prompts,
    draw_weights,
    rotary_tables,
)
from cuda_library import CudaLibrary, CudaModel
from cuda_reference import as_bfloat16, logits_of, round_to_bfloat16, round_to_bytes
from cuda_sampler import CudaSampler, philox, seen_rows

from alignment.generation.random_numbers import uniform

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
Spans = list[tuple[int, int, int]]
"""(prompt, begin, end): rows to compute in one call."""


def load(
    library: CudaLibrary,
    family: str,
    *,
    weights: str = "float32",
    kv: str = "float32",
    seed: int = 0,
    invariant: int = 1,
) -> CudaModel:
    """Return a small model with drawn weights."""
    sizes = FAMILIES[family]
    limits = dict(max_rows=400, max_decode_rows=400, max_logit_rows=400, row_invariant=invariant)
    model = CudaModel(library, sizes, limits, weights=weights, kv=kv)
    set_weights(model, draw_weights(sizes, seed=seed))
    model.set_rotary(*rotary_tables(sizes))
    assert model.missing() == (0, "")
    return model


def set_weights(model: CudaModel, weights: dict[str, np.ndarray], *, dtype: str = "float32") -> None:
    """Pack all weights."""
    for name, values in weights.items():
        given = as_bfloat16(round_to_bfloat16(values)) if dtype == "bfloat16" else values
        model.set_weight(name, model.library.memory.put(given), dtype=dtype)


def whole(prompts: Prompts) -> Spans:
    """Return the spans of all rows."""
    return [(i, 0, len(tokens)) for i, tokens in enumerate(prompts.tokens)]


def forward(model: CudaModel, prompts: Prompts, spans: Spans, *, decode_rows: int = 0) -> np.ndarray:
    """Return the logits [rows, V] of every row of ``spans``, computed in one call."""
    places = [np.arange(begin, end) for _, begin, end in spans]
    tokens = np.concatenate([prompts.tokens[i][place] for (i, _, _), place in zip(spans, places, strict=True)])
    slots = np.repeat([prompts.slots[i] for i, _, _ in spans], [len(place) for place in places])
    positions = np.concatenate(places)
    batch = model.batch(tokens, slots, positions, prompts.block_tables, np.arange(len(tokens)))
    longest = int(positions.max()) + 1
    assert model.problem(batch, longest=longest) is None
    model.forward(batch, decode_rows=decode_rows, longest=longest)
    return np.array(model.library.memory.get(batch.logits))


def by_chunks(model: CudaModel, prompts: Prompts, size: int, *, split: bool) -> np.ndarray:
    """Return the same logits computed ``size`` tokens of each prompt at a time."""
    parts: list[list[np.ndarray]] = [[] for _ in prompts.tokens]
    for begin in range(0, max(map(len, prompts.tokens)), size):
        spans = [(i, begin, min(begin + size, end)) for i, _, end in whole(prompts) if begin < end]
        rows = sum(end - begin for _, begin, end in spans)
        logits = forward(model, prompts, spans, decode_rows=rows if split else 0)
        for (i, first, end), part in zip(
            spans, np.split(logits, np.cumsum([e - b for _, b, e in spans])[:-1]), strict=True
        ):
            assert len(part) == end - first
            parts[i].append(part)
    return np.concatenate([part for of_prompt in parts for part in of_prompt])


def expected(family: str, prompts: Prompts, *, is_rounded: bool = False) -> np.ndarray:
    """Return the logits of the float64 decoder, perhaps with its matrices rounded to bfloat16."""
    sizes = FAMILIES[family]
    weights = draw_weights(sizes)
    if is_rounded:
        weights = {name: round_to_bfloat16(x) if x.ndim > 1 else x for name, x in weights.items()}
    return np.concatenate([logits_of(sizes, weights, rotary_tables(sizes), tokens) for tokens in prompts.tokens])


def assert_close(found: np.ndarray, wanted: np.ndarray, share: float) -> None:
    """Every number must be within ``share`` of the largest one."""
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error <= share, f"largest error {error:.2e} of the largest logit, at most {share:.0e} allowed"


def check_reference(library: CudaLibrary, family: str) -> None:
    """f32 logits are those of a float64 decoder, and of the CPU kernels in the golden file."""
    prompts, model = draw_prompts(FAMILIES[family]), load(library, family)
    found = forward(model, prompts, whole(prompts))
    model.close()
    assert_close(found, expected(family, prompts), 1e-4)
    with np.load(GOLDEN / "cuda_decoder.npz") as golden:
        drawn = checksum([*draw_weights(FAMILIES[family]).values(), *prompts.tokens])
        assert abs(drawn / float(golden[f"{family}.checksum"]) - 1) < 1e-6, "this machine drew other weights"
        assert_close(found[golden["rows"]], golden[f"{family}.logits"], 1e-4)


def check_halves(library: CudaLibrary, family: str) -> None:
    """bf16 weights, inputs and cache stay near the float64 decoder that has the rounded weights."""
    prompts, model = draw_prompts(FAMILIES[family]), load(library, family, weights="bfloat16", kv="bfloat16")
    found = forward(model, prompts, whole(prompts), decode_rows=150)
    set_weights(model, draw_weights(FAMILIES[family]), dtype="bfloat16")
    vectors = {name: x for name, x in draw_weights(FAMILIES[family]).items() if x.ndim == 1}
    set_weights(model, vectors)
    again = forward(model, prompts, whole(prompts), decode_rows=150)
    model.close()
    assert np.array_equal(found, again), "weights given as bf16 are those rounded from f32"
    assert_close(found, expected(family, prompts, is_rounded=True), 4e-2)


def check_bytes(library: CudaLibrary, family: str) -> None:
    """int8 weights give the logits of the float64 decoder that has them: f32 inputs nearly, bf16 inputs roughly."""
    drawn, prompts = draw_weights(FAMILIES[family]), draw_prompts(FAMILIES[family])
    sizes, weights = round_to_bytes(drawn, FAMILIES[family])
    tables = rotary_tables(sizes)
    wanted = np.concatenate([logits_of(sizes, weights, tables, tokens) for tokens in prompts.tokens])
    for kv, share in (("float32", 1e-4), ("bfloat16", 4e-2)):
        model = load(library, family, weights="int8", kv=kv)
        found = forward(model, prompts, whole(prompts), decode_rows=150)
        assert np.array_equal(forward(model, prompts, [(0, 0, 1)]), found[:1]), "bits of a row alone"
        model.close()
        assert_close(found, wanted, share)


def check_split_and_tiles(library: CudaLibrary, family: str, kv: str) -> None:
    """Bits: a row's logits do not depend on which attention kernel computes it."""
    prompts, model = draw_prompts(FAMILIES[family]), load(library, family, kv=kv)
    wanted = forward(model, prompts, whole(prompts))
    assert np.isfinite(wanted).all()
    for decode_rows in (len(wanted), 7):
        found = forward(model, prompts, whole(prompts), decode_rows=decode_rows)
        assert np.array_equal(found, wanted), f"{decode_rows} rows by split attention"
    model.close()


def check_row_invariance(library: CudaLibrary, family: str, *, sizes: tuple[int, ...] = (64,)) -> None:
    """Bits: a row's logits depend neither on the rows beside it nor on its slot and blocks. Needs such products."""
    prompts, model = draw_prompts(FAMILIES[family]), load(library, family)
    wanted = forward(model, prompts, whole(prompts))
    for size in sizes:
        for split in (False, True):
            found = by_chunks(model, prompts, size, split=split)
            assert np.array_equal(found, wanted), f"chunks of {size}, split attention {split}"
    moved = draw_prompts(FAMILIES[family], seed=3)
    alone = np.concatenate([forward(model, moved, [span]) for span in whole(moved)])
    model.close()
    assert np.array_equal(alone, wanted), "alone, in other slots and blocks"


def check_idle_rows(library: CudaLibrary) -> None:
    """Bits: rows without a slot change neither the pool nor other rows, and their positions do not matter."""
    prompts, model = draw_prompts(FAMILIES["llama"], (20, 20)), load(library, "llama")
    wanted = forward(model, prompts, whole(prompts))
    tokens = [5, prompts.tokens[0][19], 9, prompts.tokens[1][19]]
    positions, slots = [4, 19, 10**6, 19], [-1, prompts.slots[0], -1, prompts.slots[1]]
    for decode_rows in (0, 4):
        batch = model.batch(tokens, slots, positions, prompts.block_tables, [1, 3])
        model.forward(batch, decode_rows=decode_rows, longest=20)
        assert np.array_equal(library.memory.get(batch.logits), wanted[[19, 39]])
        assert np.array_equal(forward(model, prompts, [(0, 19, 20)]), wanted[[19]])
    model.close()


def check_copied_block(library: CudaLibrary, kv: str) -> None:
    """Bits: copied blocks serve another sequence."""
    prompts, model = draw_prompts(FAMILIES["llama"], (20, 20)), load(library, "llama", kv=kv)
    prompts = prompts._replace(tokens=[prompts.tokens[0], np.append(prompts.tokens[0][:19], 7)])
    wanted = forward(model, prompts, whole(prompts))
    other = load(library, "llama", kv=kv)
    forward(other, prompts, [(0, 0, 20)])
    for source, target in zip(*(prompts.block_tables[slot] for slot in prompts.slots), strict=True):
        other.copy_block(int(source), int(target))
    assert np.array_equal(forward(other, prompts, [(1, 19, 20)])[0], wanted[-1])
    model.close()
    other.close()


def check_sampler(library: CudaLibrary, name: str) -> None:
    """Tokens are those of the CPU sampler, in the golden file; log-probs agree within 1e-5."""
    with np.load(GOLDEN / "cuda_sampler.npz") as golden:
        wanted = {kind: golden[f"{name}.{kind}"] for kind in ("tokens", "logprobs")}
        drawn = float(golden["checksum"])
    rows, vocab = len(wanted["tokens"]), int(VOCAB * 10)
    logits = draw_logits(rows, vocab)
    assert abs(checksum([logits]) / drawn - 1) < 1e-6, "this machine drew other logits"
    sampler = CudaSampler(library, rows, vocab, SAMPLINGS[name])
    put = library.memory.put
    forbidden, marks = sampler_marks(rows, vocab)
    addresses, kept = seen_rows(library, marks)
    has_penalty = SAMPLINGS[name].get("repetition_penalty", 1.0) != 1.0
    sampler.start(
        put(logits), put(sampler_uniforms(rows)), forbid_stops=put(forbidden), seen=addresses if has_penalty else None
    )
    found = sampler.result()
    assert kept is not None and (found.outcomes == 0).all()
    assert np.array_equal(found.tokens, wanted["tokens"])
    np.testing.assert_allclose(found.logprobs, wanted["logprobs"], rtol=1e-5, atol=1e-6)


def sampler_marks(rows: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (forbid_stops [rows] uint8, tokens seen [rows, V]) of the sampler's cases."""
    generator = np.random.default_rng(29)
    return (np.arange(rows) % 2).astype(np.uint8), generator.random((rows, vocab)) < 0.3


def sampler_uniforms(rows: int) -> np.ndarray:
    """Return [rows] numbers in [0, 1), the ends among them."""
    numbers = uniform(5, np.arange(rows), np.arange(rows))
    numbers[:3] = 0.0, 1 - 2**-53, 0.5
    return numbers


def check_refusals(library: CudaLibrary) -> None:
    """NaN, infinite and wholly forbidden rows are told apart and leave the others alone."""
    logits = draw_logits(4, 300)
    logits[0, 299], logits[1, 5], logits[2] = np.nan, np.inf, -np.inf
    sampler = CudaSampler(library, 4, 300, {})
    sampler.start(library.memory.put(logits), library.memory.put(np.full(4, 0.5)))
    assert sampler.result().outcomes.tolist() == [1, 1, 1, 0]
    only = np.full((2, 40), -np.inf, np.float32)
    only[:, 3] = 1.0
    sampler = CudaSampler(library, 2, 40, dict(stops=(3,)))
    forbid = library.memory.put(np.array([1, 0], np.uint8))
    sampler.start(library.memory.put(only), library.memory.put(np.full(2, 0.5)), forbid_stops=forbid)
    assert sampler.result().outcomes.tolist() == [2, 0]
    assert sampler.result().tokens.tolist() == [0, 3]


def check_philox(library: CudaLibrary) -> None:
    """Bits: the numbers of alignment/generation/random_numbers.py."""
    ids = np.array([0, 1, 2**63 + 5, 7, 2**32], np.uint64)
    places = np.array([0, 1, 2**32 - 1, 77, 3], np.uint64)
    for seed in (0, 12345, 2**64 - 1):
        assert np.array_equal(philox(library, seed, ids, places), uniform(seed, ids, places))


def every_check() -> dict[str, Callable[[CudaLibrary], None]]:
    """Return all checks by name."""
    checks: dict[str, Callable[[CudaLibrary], None]] = {}
    for family in FAMILIES:
        checks[f"reference {family}"] = lambda library, f=family: check_reference(library, f)
        checks[f"halves {family}"] = lambda library, f=family: check_halves(library, f)
        checks[f"bytes {family}"] = lambda library, f=family: check_bytes(library, f)
        for kv in ("float32", "bfloat16"):
            checks[f"split and tiles {family} {kv}"] = lambda library, f=family, k=kv: check_split_and_tiles(
                library, f, k
            )
        checks[f"row invariance {family}"] = lambda library, f=family: check_row_invariance(library, f)
    for kv in ("float32", "bfloat16"):
        checks[f"copied block {kv}"] = lambda library, k=kv: check_copied_block(library, k)
    for name in SAMPLINGS:
        checks[f"sampler {name}"] = lambda library, n=name: check_sampler(library, n)
    return checks | {"idle rows": check_idle_rows, "refusals": check_refusals, "philox": check_philox}
