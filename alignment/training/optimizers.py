"""AdamW with parameters and state by canonical name, and gradient clipping."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import paddle

from alignment.architecture.parts import Part
from alignment.errors import CheckpointError

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

    def step(self, learning_rate: float) -> None:
        """Apply one update from the accumulated gradients and clear them."""
        self._optimizer.set_lr(learning_rate)
        self._optimizer.step()
        self.clear()

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
            block = paddle.base.framework.default_main_program().global_block()
            self._optimizer._create_accumulators(block, list(self.parameters.values()))

    def named_tensors(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the moments, which take most of an optimizer's memory."""
        names = {parameter.name: name for name, parameter in self.parameters.items()}
        for field in ("moment1", "moment2"):
            for inner, tensor in self._optimizer._accumulators.get(field, {}).items():
                yield f"{names[inner]}/{field}", tensor


def clip_by_global_norm(parameters: Mapping[str, paddle.Tensor], max_norm: float) -> float:
    """Scale gradients to a global L2 norm of at most ``max_norm`` (0: only measure); return the norm before."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    if not gradients:
        return 0.0
    total = paddle.add_n([g.astype("float32").square().sum() for g in gradients])
    norm = float(total.sqrt())
    scale_gradients(parameters, norm, max_norm)
    return norm


@paddle.no_grad()
def scale_gradients(parameters: Mapping[str, paddle.Tensor], norm: float, max_norm: float) -> None:
    """Scale gradients with global L2 norm ``norm`` to at most ``max_norm`` (0: leave them unchanged)."""
    if max_norm > 0 and norm > max_norm:
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.grad.scale_(max_norm / (norm + 1e-6))
