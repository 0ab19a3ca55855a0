"""bfloat16 on a CPU, for tests: what Paddle's CPU build has no kernel for is computed in float32 and rounded.

That is what tensor cores do with a product of bfloat16 matrices: exact products, float32 sums, one rounding. The
gradient runs the same way, because a cast is differentiated by a cast. Operators that only move numbers keep their own
kernels.

``install`` changes modules when they are imported, so it comes before Paddle. Beside Paddle's operators it lifts what
keeps the package from bfloat16 on a CPU: the method that names the dtype of the weights, the module that knows which
operators a GPU has (``gpu_on_cpu``), and the lines that say that the keys do nothing there.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from typing import Any

_MOVING = """as_strided assign assign_ assign_out_ assign_value assign_value_ cast cast_ empty empty_like equal_all
    expand fill full full_ full_like full_with_tensor gather index_select numel reshape reshape_ set_value set_value_
    set_value_with_tensor set_value_with_tensor_ shape share_data slice split split_with_num squeeze squeeze_ stack
    strided_slice transpose transpose_ unbind unsqueeze unsqueeze_ unstack view_dtype view_shape view_slice"""
MOVING = frozenset(_MOVING.split())
"""Operators that copy numbers without computing any, and whose kernels exist in both directions."""
LOOKED_UP = frozenset({"embedding", "index_elementwise_get", "index_elementwise_put", "index_elementwise_put_"})
"""Operators that copy numbers forward and add them up in bfloat16 backward, as on a GPU."""
_ARITHMETIC = """add radd sub rsub mul rmul div rdiv truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul
    rmatmul eq ne lt le gt ge"""


def install() -> None:
    """Have the modules changed when they are imported."""
    sys.meta_path.insert(
        0,
        _AfterImport(
            {
                "paddle._C_ops": _wrap_operators,
                "paddle": _wrap_functions,
                "alignment.arguments.keys.training": _allow_half_weights,
                "alignment.arguments.effects": _drop_lines_about_bf16,
                "alignment.ops.device_kernels": _put_half_precision_on_a_device,
            }
        ),
    )


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as that is imported."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self._changes = changes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            execute, change = spec.loader.exec_module, self._changes[name]

            def execute_and_change(module: Any) -> None:
                execute(module)
                change(module)

            spec.loader.exec_module = execute_and_change
        return spec


def _wrap_operators(module: Any) -> None:
    unknown = sorted((MOVING | LOOKED_UP) - set(module.__all__))
    assert not unknown, f"this Paddle has no operators {unknown}"
    for name in module.__all__:
        operator = getattr(module, name)
        if not (name in MOVING or name in LOOKED_UP or name.startswith(("_", "c_", "mp_")) or not callable(operator)):
            setattr(module, name, _in_float32(operator, writes_first=name.endswith("_")))


def _wrap_functions(paddle: Any) -> None:
    """Wrap what is no single operator in Python: the arithmetic of tensors."""
    for name in _ARITHMETIC.split():
        method = f"__{name}__"
        if hasattr(paddle.Tensor, method):
            setattr(paddle.Tensor, method, _in_float32(getattr(paddle.Tensor, method)))


def _in_float32(operator: Callable, *, writes_first: bool = False) -> Callable:
    """Return ``operator``, computing in float32 when a tensor among its arguments is bfloat16.

    What it returns is rounded to bfloat16, unless one of the tensors is wider or the caller names a dtype.
    ``writes_first``: its result is also what its first argument holds afterwards.
    """

    @functools.wraps(operator)
    def compute(*arguments: Any, **options: Any) -> Any:
        given = [*_tensors(arguments), *_tensors(options.values())]
        if not any(_is_half(tensor) for tensor in given):
            return operator(*arguments, **options)
        result = operator(*_widen(arguments), **{name: _widen(value) for name, value in options.items()})
        is_wide = any(_is_wide(tensor) for tensor in given) or _names_dtype(arguments) or _names_dtype(options.values())
        result = result if is_wide else _round(result)
        return _write(arguments[0], result) if writes_first else result

    return compute


def _tensors(values: Any) -> list[Any]:
    import paddle

    found = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += _tensors(value)
        elif isinstance(value, paddle.Tensor):
            found.append(value)
    return found


def _is_half(tensor: Any) -> bool:
    import paddle

    return tensor.dtype == paddle.bfloat16


def _is_wide(tensor: Any) -> bool:
    import paddle

    return tensor.dtype in (paddle.float32, paddle.float64)


def _names_dtype(values: Any) -> bool:
    import paddle

    return any(isinstance(value, (paddle.base.core.DataType, paddle.base.core.VarDesc.VarType)) for value in values)


def _widen(value: Any) -> Any:
    import paddle

    if isinstance(value, (list, tuple)):
        return type(value)(map(_widen, value))
    return value.astype("float32") if isinstance(value, paddle.Tensor) and _is_half(value) else value


def _round(value: Any) -> Any:
    import paddle

    if isinstance(value, (list, tuple)):
        return type(value)(map(_round, value))
    is_float = isinstance(value, paddle.Tensor) and value.dtype == paddle.float32
    return value.astype("bfloat16") if is_float else value


def _write(target: Any, result: Any) -> Any:
    """Set ``target`` to what an in-place operator gave; nothing on a gradient tape is written over."""
    import paddle

    assert not (paddle.is_grad_enabled() and not target.stop_gradient), "an in-place operator on a recorded tensor"
    with paddle.no_grad():
        paddle.assign(result.astype(target.dtype), target)
    return target


def _allow_half_weights(module: Any) -> None:
    def weight_dtype(self: Any, device: str) -> str:
        """As on a GPU."""
        return "bfloat16" if self.bf16 and self.fp16_opt_level == "O2" else "float32"

    module.TrainingArguments.weight_dtype = weight_dtype


def _put_half_precision_on_a_device(module: Any) -> None:
    """As on a GPU, by operators that compute on a CPU."""
    import gpu_on_cpu

    for name, replacement in gpu_on_cpu.stand_in().items():
        setattr(module, name, replacement)


def _drop_lines_about_bf16(module: Any) -> None:
    report = module.report_effects

    def report_effects(parsed: Any, **situation: Any) -> list[Any]:
        """As on a GPU."""
        return [effect for effect in report(parsed, **situation) if effect.key not in ("bf16", "fp16_opt_level")]

    module.report_effects = report_effects
