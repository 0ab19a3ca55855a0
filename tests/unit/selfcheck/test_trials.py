"""What the doctor tries: every operator of Paddle that the package calls, and each trial can fail."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from alignment.ops.native.library import find_core
from alignment.selfcheck import operators, suite
from tests.emulated import emulated_kernels

NOT_COMPUTED = {
    "CPUPlace", "CUDAPinnedPlace", "Tensor", "__file__", "autograd", "backward", "base", "default_main_program",
    "framework", "bfloat16", "device", "device_count", "cuda", "finfo", "get_device", "get_device_name",
    "is_compiled_with_cuda",
    "synchronize", "disable_signal_handler", "dtype", "empty", "empty_like", "float16", "float32", "float64",
    "int64", "is_grad_enabled", "nn", "Layer", "functional", "no_grad", "optimizer", "AdamW", "seed",
    "set_device", "set_flags", "version", "current_stream", "empty_cache", "get_device_capability",
    "_current_expected_place_", "create_parameter",
}  # fmt: skip
"""Names behind ``paddle.`` that are types, settings or memory without content; AdamW is part of an update."""


def called_operators(root):
    """Return the last names of everything behind ``paddle.`` and ``F.`` in the package."""
    names = set()
    for path in (root / "alignment").rglob("*.py"):
        if path.parent.name != "selfcheck":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and _stem(node) in ("paddle", "F"):
                    names.add(node.attr)
    return names


def _stem(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", None)


def test_every_operator_that_is_called_is_tried(repo_root):
    tried = {*operators.OPERATORS, "scaled_dot_product_attention"}
    assert called_operators(repo_root) - NOT_COMPUTED - tried == set()


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_an_operator_that_computes_something_else_fails(name, monkeypatch):
    dict(operators.operator_trials())[f"Paddle's {name}"]()
    call, wanted = operators.OPERATORS[name]
    wrong = tuple(not part for part in wanted) if isinstance(wanted, tuple) else _change(wanted)
    monkeypatch.setitem(operators.OPERATORS, name, (call, wrong))
    with pytest.raises(AssertionError):
        dict(operators.operator_trials())[f"Paddle's {name}"]()


def _change(values):
    changed = np.array(values)
    changed.flat[-1] = ~changed.flat[-1] if changed.dtype == bool else changed.flat[-1] + 1
    return changed


def test_updates_and_engines_are_tried():
    names = [name for name, _ in suite.all_trials()]
    assert names[len(operators.OPERATORS) + 2 :] == [
        "an update with Paddle's operators",
        "a reward model",
        "the eager engine",
        "compiled kernels",
        "an update with compiled operators",
        "the fused engine with float32 weights",
        "the fused engine with bfloat16 weights",
        "the fused engine with int8 weights",
    ]
    for name, trial in suite.all_trials():
        if not name.startswith("Paddle's"):
            trial()


def test_compiled_operators_that_differ_from_paddles_fail(monkeypatch):
    if find_core().core is None:
        pytest.skip(find_core().reason)
    gradients = suite._gradients
    monkeypatch.setattr(
        suite,
        "_gradients",
        lambda family, native: {n: g * (1.01 if native else 1) for n, g in gradients(family, native=native).items()},
    )
    suite.update(native=False)
    with pytest.raises(AssertionError, match=next(iter(suite.FAMILIES))):
        suite.update(native=True)


def test_on_a_gpu_the_fused_engine_is_tried_with_its_kernels(monkeypatch):
    kernels, asked = emulated_kernels(), []
    monkeypatch.setattr(suite, "device_kernels", lambda: asked.append("kernels") or kernels)
    monkeypatch.setattr(suite, "FAMILIES", {"llama": suite.FAMILIES["llama"]})
    suite.generate("float32")
    suite.generate("int8")
    assert len(asked) == 4


def test_a_fused_engine_that_differs_from_the_eager_one_fails(monkeypatch):
    if find_core().core is None:
        pytest.skip(find_core().reason)
    answers = iter([[[1] * 6] * 3, [[2] * 6] * 3])
    monkeypatch.setattr(suite, "_answer", lambda engine, options: next(answers))
    with pytest.raises(AssertionError, match="where the eager engine gives"):
        suite.generate("float32")


def test_weights_that_are_not_finite_fail(monkeypatch):
    step = suite.NamedAdamW.step
    monkeypatch.setattr(suite.NamedAdamW, "step", lambda self, rate, **clip: step(self, np.inf, **clip))
    with pytest.raises(AssertionError, match="not finite"):
        suite.update(native=False)


def test_the_kernels_of_a_cpu_are_tried_on_a_cpu_only(monkeypatch):
    on_cpu = [name for name, _ in suite.all_trials()]
    monkeypatch.setattr(suite.paddle.device, "get_device", lambda: "gpu:0")
    on_gpu = [name for name, _ in suite.all_trials()]
    of_cpu = [name for name in on_cpu if name not in on_gpu]
    assert of_cpu == ["compiled kernels", "an update with compiled operators"]
    assert on_gpu[-3:] == [f"the fused engine with {kind} weights" for kind in ("float32", "bfloat16", "int8")]
    assert suite.KERNELS in on_cpu and suite.KERNELS not in on_gpu
