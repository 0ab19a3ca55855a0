"""AdamW with parameters and state by canonical name.

Float32 tensors on a CPU are updated by a compiled kernel, all others by Paddle's operator: both keep the same state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import paddle

from alignment.architecture.parts import Part
from alignment.errors import CheckpointError
from alignment.ops.native import update_ops
from alignment.ops.native.selection import native_ops_enabled, runs_natively
from alignment.telemetry import log

MOMENT_FIELDS = ("moment1_0", "moment2_0")
POWER_FIELDS = ("beta1_pow_acc_0", "beta2_pow_acc_0")
STATE_FIELDS = (*MOMENT_FIELDS, *POWER_FIELDS)
"""The state dict suffixes of Paddle's AdamW: moments have the parameter's shape, powers of the betas are scalars."""

MASTER_FIELD = "master"
"""The float32 parameter behind a half-precision weight."""


@dataclass(frozen=True, kw_only=True)
class AdamSettings:
    """Settings of AdamW (Loshchilov and Hutter 2019); biases and norm weights are not decayed."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


def decays(name: str) -> bool:
    """Return whether weight decay applies to the parameter ``name``."""
    return not (name.endswith("bias") or "norm" in name)


class NamedAdamW:
    """Paddle's AdamW with canonical names; Paddle's own state keys depend on the order of layer creation.

    Parameters are float32 or float64; half-precision weights are updated through the masters of ``ParameterShards``.
    """

    def __init__(
        self,
        parameters: Mapping[str, paddle.Tensor],
        settings: AdamSettings,
        *,
        parts: Mapping[str, Part] | None = None,
        masters: Collection[str] = (),
    ) -> None:
        """``parts`` are the parts of the whole tensors that ``parameters`` are (None: whole tensors).

        ``masters`` names the master copies of half-precision weights, which are part of the state.
        """
        self.parameters = {name: p for name, p in parameters.items() if not p.stop_gradient}
        half = [name for name, p in self.parameters.items() if p.dtype not in (paddle.float32, paddle.float64)]
        assert not half, f"{half[:2]} need masters, see ParameterShards"
        self._parts = dict(parts or {})
        self._masters = frozenset(masters)
        self._settings = settings
        self._has_told = False
        decayed = {p.name for name, p in self.parameters.items() if decays(name)}
        # Paddle refuses an optimizer of nothing, which a pipeline stage has that holds only frozen weights.
        nothing = [paddle.create_parameter([1], "float32")] if not self.parameters else []
        self._optimizer = paddle.optimizer.AdamW(
            learning_rate=0.0,
            parameters=[*self.parameters.values(), *nothing],
            beta1=settings.beta1,
            beta2=settings.beta2,
            epsilon=settings.epsilon,
            weight_decay=settings.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
        )

    def step(self, learning_rate: float, *, gradient_scale: float = 1.0) -> None:
        """Apply one update from the accumulated gradients, multiplied by ``gradient_scale``, and clear them."""
        updated = {name: p for name, p in self.parameters.items() if p.grad is not None}
        if native_ops_enabled() and not self._tell_obstacle(updated):
            self._step_natively(updated, learning_rate, gradient_scale)
        else:
            scale_gradients(updated, gradient_scale)
            self._optimizer.set_lr(learning_rate)
            self._optimizer.step()
        self.clear()

    def _tell_obstacle(self, updated: Mapping[str, paddle.Tensor]) -> bool:
        """Return whether the compiled kernel cannot update these parameters; the log says so once."""
        found = next((n for n, p in updated.items() if not runs_natively(p) or not p.is_contiguous()), None)
        if found is not None and not self._has_told:
            weight = updated[found]
            kind = str(weight.dtype).removeprefix("paddle.")
            log.info(f"AdamW: Paddle's operator instead of the compiled one, as {found} is {kind} on {weight.place}")
            self._has_told = True
        return found is not None

    def _step_natively(self, updated: Mapping[str, paddle.Tensor], learning_rate: float, gradient_scale: float) -> None:
        self._create_state(updated.values())
        kept = self._optimizer._accumulators
        tensors = [
            update_ops.AdamTensor(
                p.grad if p.grad.is_contiguous() else p.grad.contiguous(),
                p,
                *(kept[field][p.name] for field in ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")),
                decays(name),
            )
            for name, p in updated.items()
        ]
        update_ops.adamw(
            tensors,
            learning_rate=learning_rate,
            betas=(self._settings.beta1, self._settings.beta2),
            epsilon=self._settings.epsilon,
            weight_decay=self._settings.weight_decay,
            gradient_scale=gradient_scale,
        )

    def _create_state(self, parameters: Iterable[paddle.Tensor]) -> None:
        """Create the moments of those ``parameters`` that have none, from a loaded state if there is one."""
        kept = self._optimizer._accumulators.get("moment1", {})
        if new := [parameter for parameter in parameters if parameter.name not in kept]:
            block = paddle.base.framework.default_main_program().global_block()
            self._optimizer._create_accumulators(block, new)

    def clear(self) -> None:
        """Clear the accumulated gradients."""
        self._optimizer.clear_grad(set_to_zero=False)

    def state(self) -> dict[str, np.ndarray]:
        """Return ``{canonical name/field: array}``; without masters it is empty before the first step."""
        inner = self._optimizer.state_dict()
        state = {
            f"{name}/{field}": inner[key].numpy()
            for name, parameter in self.parameters.items()
            for field in STATE_FIELDS
            if (key := f"{parameter.name}_{field}") in inner
        }
        assert len(state) == len(inner), f"part of the optimizer's state is unknown: {sorted(inner)[:4]}"
        masters = (name for name in self.parameters if name in self._masters)
        return state | {f"{name}/{MASTER_FIELD}": self.parameters[name].numpy() for name in masters}

    def state_parts(self) -> dict[str, Part]:
        """Return the part of the whole tensor that the moments and master in ``state`` are, by name."""
        return {name: self._parts.get(name, Part.whole(name, p.shape)) for name, p in self.parameters.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned; CheckpointError for unknown names or other shapes."""
        inner: dict[str, paddle.Tensor] = {}
        for key, value in state.items():
            name, _, field = key.rpartition("/")
            if name not in self.parameters:
                raise CheckpointError(f"optimizer state holds {name!r}, which is not a parameter of this model")
            parameter = self.parameters[name]
            if field not in POWER_FIELDS and list(value.shape) != list(parameter.shape):
                raise CheckpointError(
                    f"optimizer state {key!r} has shape {list(value.shape)}, and the parameter {list(parameter.shape)}"
                )
            if field != MASTER_FIELD:
                inner[f"{parameter.name}_{field}"] = paddle.to_tensor(value)
            elif name in self._masters:
                parameter.set_value(value)
        if inner:
            self._optimizer.set_state_dict(inner)
            # Paddle would apply the state only at the next step; a checkpoint before that would lack it.
            self._create_state(self.parameters.values())

    def named_tensors(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the moments, which take most of an optimizer's memory."""
        names = {parameter.name: name for name, parameter in self.parameters.items()}
        for field in ("moment1", "moment2"):
            for inner, tensor in self._optimizer._accumulators.get(field, {}).items():
                yield f"{names[inner]}/{field}", tensor


@paddle.no_grad()
def scale_gradients(parameters: Mapping[str, paddle.Tensor], factor: float) -> None:
    """Multiply all gradients by ``factor``."""
    if factor != 1.0:
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.grad.scale_(factor)
