"""Trials of the suite's operators, both engines and an update on a model of two layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import FAMILIES
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import Engine, GenerationOptions
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import WEIGHT_TYPES, FusedSettings
from alignment.generation.kernel_choice import device_kernels
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.ops.native.library import load_core
from alignment.ops.native.selection import use_native_ops
from alignment.records import TokenBatch
from alignment.selfcheck.operators import operator_trials
from alignment.training.gradient_norm import clip_factor, gradient_norm
from alignment.training.optimizers import AdamSettings, NamedAdamW

_SIZES = {
    "vocab_size": 90,
    "hidden_size": 64,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 32,
    "sliding_window": 7,
}
_TOKENS = np.random.default_rng(0).integers(0, 90, (3, 24))
_BATCH = TokenBatch.build([_TOKENS[0], _TOKENS[1, :3], _TOKENS[2, :17]], [range(9, 24), [2], range(1, 17)])
KERNELS = "compiled kernels"


def all_trials() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield (name, call) of everything that the suite uses on this machine."""
    yield from operator_trials()
    yield "an update with Paddle's operators", partial(update, native=False)
    yield "a reward model", score
    yield "the eager engine", partial(generate, "eager")
    if paddle.device.get_device() == "cpu":
        yield KERNELS, load_core
        yield "an update with compiled operators", partial(update, native=True)
    for weight_type in WEIGHT_TYPES:
        yield f"the fused engine with {weight_type} weights", partial(generate, weight_type)


def update(*, native: bool) -> None:
    """Make one update of a policy of each family; with ``native``, compare compiled operators with Paddle's."""
    for family in FAMILIES:
        found = _gradients(family, native=native)
        wanted = _gradients(family, native=False) if native else found
        largest = max(np.abs(gradient).max() for gradient in wanted.values())
        for name, gradient in found.items():
            assert np.isfinite(gradient).all(), f"{family}: {name} has a gradient that is not finite"
            # Where nothing is rotated the softmax does not see a key's bias: its gradient is rounding only.
            scale = max(np.abs(wanted[name]).max(), 1e-3 * largest)
            np.testing.assert_allclose(gradient, wanted[name], atol=1e-3 * scale, err_msg=f"{family}: {name}")


def _gradients(family: str, *, native: bool) -> dict[str, np.ndarray]:
    """Return the gradients of a loss by name, after an update with them."""
    model = _build(family)
    parameters = dict(model.named_parameters())
    use_native_ops(native)
    try:
        logprobs, entropies = policy_logprobs(model, _BATCH, temperature=0.8, with_entropy=True)
        (logprobs.mean() + 0.1 * entropies.mean()).backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
        factor = clip_factor(gradient_norm(parameters), 1.0)
        NamedAdamW(parameters, AdamSettings()).step(1e-3, gradient_scale=factor)
    finally:
        use_native_ops(False)
    assert all(np.isfinite(parameter.numpy()).all() for parameter in parameters.values()), f"{family}: not finite"
    return gradients


def score() -> None:
    """Score and backpropagate through a reward model."""
    model = ScoreModel(_config(next(iter(FAMILIES))), ScoreOptions())
    draw_weights(model, seed=1, std=0.2)
    scores = model.read_end_scores(_BATCH)
    F.log_sigmoid(scores[0] - scores[1]).backward()
    assert np.isfinite(model.score.weight.grad.numpy()).all(), "the gradient of the score head is not finite"


def generate(kind: str) -> None:
    """Answer prompts with the eager engine, or with the fused engine with weights of type ``kind`` if it can run.

    With float32 weights the fused engine must give the tokens of the eager one.
    """
    options = GenerationOptions(max_new_tokens=6, do_sample=False)
    for family in FAMILIES:
        model = _build(family)
        if kind != "eager" and device_kernels().obstacle(model.config):
            continue
        found = _answer(_engine(model, kind), options)
        assert all(len(tokens) == 6 for tokens in found), f"{family}: {found}"
        if kind == "float32":
            wanted = _answer(_engine(model, "eager"), options)
            assert found == wanted, f"{family}: {found} where the eager engine gives {wanted}"


def _engine(model: CausalLM, kind: str) -> Engine:
    if kind == "eager":
        return EagerEngine(model)
    settings = FusedSettings(weight_type=kind, kv_memory="1MiB", block_tokens=16)
    return FusedEngine(model, settings, kernels=device_kernels())


def _answer(engine: Engine, options: GenerationOptions) -> list[list[int]]:
    engine.load_weights(None, 0)
    prompts = [row[:length].tolist() for row, length in zip(_TOKENS, (20, 1, 5), strict=True)]
    completions = engine.generate(prompts, options, seed=0, sequence_ids=range(len(prompts)))
    return [completion.token_ids.tolist() for completion in completions]


def _config(family: str) -> DecoderConfig:
    is_tied = list(FAMILIES).index(family) % 2 == 0
    table = FAMILIES[family]
    sizes = {table.key(name): size for name, size in _SIZES.items() if name not in table.absent}
    return DecoderConfig.from_dict({**sizes, "model_type": family, "tie_word_embeddings": is_tied})


def _build(family: str) -> CausalLM:
    model = CausalLM(_config(family))
    draw_weights(model, seed=3, std=0.2)
    return model
