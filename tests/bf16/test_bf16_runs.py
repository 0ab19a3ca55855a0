"""Trainers in bfloat16 with float32 masters and heads, on a CPU, through the code that a GPU takes."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.commands.export import export_model
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.safetensors_io import read_tensors
from alignment.parallel.local_ranks import run_ranks
from alignment.records import TokenBatch
from alignment.training.parts_io import read_state
from tests.bf16 import bf16_runs as runs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SITE = [runs.CPU_SITE, runs.ROOT]
ROWS = [np.random.default_rng(n).integers(3, 24, n) for n in range(5, 25)]


def in_bfloat16(name, *arguments):
    return run_ranks(f"tests.bf16.half_models:{name}", *arguments, world_size=1, search_path=SITE)[0]


def rounded(array):
    return paddle.to_tensor(array).astype("bfloat16").astype("float32").numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bf16")
    runs.make_start(place)
    return place


@pytest.fixture(scope="module")
def exact(folder):
    """The runs in float32."""
    return runs.train(folder, "one process", way="float")


FIRST, *OTHERS = runs.LAYOUTS


@pytest.fixture(scope="module", params=[FIRST, *(pytest.param(name, marks=pytest.mark.rare) for name in OTHERS)])
def half(request, folder):
    """The runs in bfloat16, in one of the layouts."""
    return runs.train(folder, request.param)


def models_of(half):
    return [(case, run.output / model) for case, run in half.items() for model in runs.models_of(case)]


def test_the_fixture_multiplies_as_tensor_cores_do():
    generator = np.random.default_rng(0)
    x, w = (rounded(generator.standard_normal(shape).astype(np.float32)) for shape in ((5, 64), (64, 3)))
    found = in_bfloat16("product", x, w)
    assert found.pop("dtypes") == {"paddle.bfloat16"}
    y = rounded(x @ w)
    np.testing.assert_array_equal(found["y"], y)
    np.testing.assert_array_equal(found["dx"], rounded(y @ w.T))
    np.testing.assert_array_equal(found["dw"], rounded(x.T @ y))
    np.testing.assert_array_equal(found["total"], np.array([1.0, 2**-9], np.float32))
    np.testing.assert_array_equal(found["mixed"], np.array([2.0, 1 + 2**-9], np.float32))


def test_five_updates_leave_a_body_in_bfloat16_and_float32_masters_and_heads(half):
    for trainer, model in models_of(half):
        run = half[trainer]
        assert [record["step"] for record in run.metrics] == [1, 2, 3, 4, 5]
        codes = runs.stored_codes(model)
        is_causal = model.name == "policy" or trainer == "pairwise"
        assert codes.pop("score.weight", None) == (None if is_causal else "F32")
        assert set(codes.values()) == {"BF16"}
        assert json.loads((model / "config.json").read_text())["dtype"] == "bfloat16"
        load = load_causal_lm if is_causal else load_score_model
        weights = dict(load(model).named_parameters())
        state = read_state(run.output / runs.LAST, f"{model.name}_optimizer")
        masters = {key.removesuffix("/master"): value for key, value in state.items() if key.endswith("/master")}
        assert set(masters) == set(weights) - {"score.weight"}
        for name, master in masters.items():
            assert master.dtype == np.float32
            np.testing.assert_array_equal(rounded(master), weights[name].numpy(), err_msg=f"{trainer} {name}")
        assert any((rounded(master) != master).any() for master in masters.values()), "masters are finer than weights"


def test_a_continued_run_ends_with_the_same_bits(half):
    for trainer, run in half.items():
        assert [record["step"] for record in run.metrics] == [1, 2, 3, 4, 5]
        assert runs.same_bits(run), trainer


def test_losses_and_gradients_are_those_of_float32_but_for_rounding(half, exact):
    for trainer, run in half.items():
        most = 0.03 if trainer == "pairwise" else 0.01  # a mean over one letter a row
        assert 1e-5 < runs.loss_gap(run, exact[trainer]) < most, trainer
        if not runs.is_sampled(trainer) or runs.same_tokens(run, exact[trainer]) == 1.0:
            assert 1e-3 < runs.gradient_gap(run, exact[trainer]) < 0.05, trainer
        if runs.is_sampled(trainer):
            assert runs.same_tokens(run, exact[trainer]) > 0.5, "one other token changes all that follow"
            assert max(record["rollout/logprob_gap_p99"] for record in run.metrics) < 0.02


@pytest.mark.rare
@pytest.mark.parametrize("layout", runs.LAYOUTS)
def test_float32_with_rounded_products_is_float32_but_for_rounding(folder, exact, layout):
    for trainer, run in runs.train(folder, layout, way="rounded").items():
        assert runs.same_bits(run), trainer
        most = 0.03 if trainer == "pairwise" else 0.01
        assert 1e-6 < runs.loss_gap(run, exact[trainer]) < most, trainer
        if not runs.is_sampled(trainer) or runs.same_tokens(run, exact[trainer]) == 1.0:
            assert 1e-4 < runs.gradient_gap(run, exact[trainer]) < 0.03, trainer
        assert all(set(runs.stored_codes(run.output / model).values()) == {"F32"} for model in runs.models_of(trainer))


def test_an_export_holds_the_same_bits(half, tmp_path):
    for trainer, model in models_of(half):
        facts = export_model(model, tmp_path / trainer / model.name, dtype="bfloat16")
        assert facts["largest logit difference"] == 0.0
        kept, written = (
            {stored.name: stored for stored in read_tensors(path)} for path in (model, tmp_path / trainer / model.name)
        )
        assert kept.keys() == written.keys()
        for name, stored in kept.items():
            assert stored.is_bfloat16 == written[name].is_bfloat16
            np.testing.assert_array_equal(stored.array, written[name].array, err_msg=name)


@pytest.mark.interop
def test_transformers_opens_what_was_trained_with_the_same_outputs(half, tmp_path):
    """The files hold bfloat16 numbers. Read into float32 both libraries compute the same but for the order of sums,
    1e-4. Computing in bfloat16 each rounds at other places, so there the distance to the float32 outputs is compared:
    ours is at most 1.5 times theirs.
    """
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folders = [model for _, model in models_of(half)]
    halves = in_bfloat16("outputs", folders, ROWS)
    for folder, ours_half in zip(folders, halves, strict=True):
        theirs, theirs_half = (ask_peer(torch, transformers, folder, dtype) for dtype in ("float32", "bfloat16"))
        ours = ask_ours(folder)
        is_new = folder.name == "reward" and not runs.is_causal(folder)
        assert abs(theirs).max() > (0.05 if is_new else 0.5), "a new head gives small scores"
        assert abs(ours - theirs).max() < 1e-4, folder
        ours_error, theirs_error = (np.linalg.norm(half - theirs) for half in (ours_half, theirs_half))
        assert 0 < ours_error < 1.5 * theirs_error, (folder, ours_error, theirs_error)


def ask_ours(folder):
    if not runs.is_causal(folder):
        batch = TokenBatch.build(ROWS, [np.empty(0, np.int64)] * len(ROWS))
        return load_score_model(folder).read_end_scores(batch).numpy()
    model = load_causal_lm(folder)
    return np.concatenate([model(row[None])[0].numpy() for row in ROWS])


def ask_peer(torch, transformers, folder, dtype):
    kind = "AutoModelForCausalLM" if runs.is_causal(folder) else "AutoModelForSequenceClassification"
    load = getattr(transformers, kind).from_pretrained
    model = load(folder, dtype=getattr(torch, dtype), attn_implementation="eager")
    with torch.no_grad():
        return np.concatenate([model(input_ids=torch.tensor(row[None])).logits[0].float().numpy() for row in ROWS])
