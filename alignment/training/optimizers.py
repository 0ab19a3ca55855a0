"""AdamW over named parameters, with a state that is keyed by canonical parameter names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import paddle

from alignment.errors import CheckpointError

STATE_FIELDS = ("moment1_0", "moment2_0", "beta1_pow_acc_0", "beta2_pow_acc_0")
"""What Paddle's AdamW keeps for a parameter, as the suffixes of its state dict."""

MASTER_SUFFIX = "_fp32_master_0"
"""A half-precision parameter has a float32 master, and Paddle keeps its moments under the master's name."""


@dataclass(frozen=True, kw_only=True)
class AdamSettings:
    """AdamW of Loshchilov and Hutter (2019), without decay on biases and norm weights."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


def decays(name: str) -> bool:
    """Return whether weight decay applies to the parameter ``name``."""
    return not (name.endswith("bias") or "norm" in name)


class NamedAdamW:
    """Paddle's AdamW behind canonical names: Paddle's own state keys depend on the order in which layers were made."""

    def __init__(self, parameters: Mapping[str, paddle.Tensor], settings: AdamSettings) -> None:
        self.parameters = {name: p for name, p in parameters.items() if not p.stop_gradient}
        self._inner_names = {p.name: name for name, p in self.parameters.items()}
        decayed = {p.name for name, p in self.parameters.items() if decays(name)}
        self._optimizer = paddle.optimizer.AdamW(
            learning_rate=0.0,
            parameters=list(self.parameters.values()),
            beta1=settings.beta1,
            beta2=settings.beta2,
            epsilon=settings.epsilon,
            weight_decay=settings.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            multi_precision=True,
        )

    def step(self, learning_rate: float) -> None:
        """Apply one update from the accumulated gradients and clear them."""
        self._optimizer.set_lr(learning_rate)
        self._optimizer.step()
        self._optimizer.clear_grad(set_to_zero=False)

    def state(self) -> dict[str, np.ndarray]:
        """Return ``{canonical name/field: array}``; empty before the first step."""
        inner = self._optimizer.state_dict()
        masters = inner.pop("master_weights", {})
        state = {
            f"{name}/{field}": inner[key].numpy()
            for tensor, name in self._inner_names.items()
            for field in STATE_FIELDS
            if (key := _inner_key(tensor, field, has_master=tensor in masters)) in inner
        }
        assert len(state) == len(inner), f"part of the optimizer's state is not understood: {sorted(inner)[:4]}"
        return state | {f"{self._inner_names[t]}/master": m.numpy() for t, m in masters.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned; a name that is not a parameter here is refused."""
        inner: dict = {}
        masters: dict = {}
        tensors = {name: tensor for tensor, name in self._inner_names.items()}
        for key, value in state.items():
            name, _, field = key.rpartition("/")
            if name not in tensors:
                raise CheckpointError(f"optimizer state holds {name!r}, which is not a parameter of this model")
            tensor = tensors[name]
            if field == "master":
                masters[tensor] = paddle.to_tensor(value)
                masters[tensor].name = tensor + MASTER_SUFFIX
            else:
                inner[_inner_key(tensor, field, has_master=f"{name}/master" in state)] = paddle.to_tensor(value)
        if masters:
            inner["master_weights"] = masters
        if inner:
            self._optimizer.set_state_dict(inner)


def _inner_key(tensor: str, field: str, *, has_master: bool) -> str:
    return f"{tensor}{MASTER_SUFFIX if has_master else ''}_{field}"


def clip_by_global_norm(parameters: Mapping[str, paddle.Tensor], max_norm: float) -> float:
    """Scale all gradients to a joint L2 norm of at most ``max_norm`` (0: measure only); return the norm before."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    if not gradients:
        return 0.0
    total = paddle.add_n([g.astype("float32").square().sum() for g in gradients])
    norm = float(total.sqrt())
    if max_norm > 0 and norm > max_norm:
        with paddle.no_grad():
            for gradient in gradients:
                gradient.scale_(max_norm / (norm + 1e-6))
    return norm
