"""Bytes of the models of a run in one process of a stage: weights and optimizer state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial

from alignment.architecture.adapter import FACTORS, Adapter, is_factor
from alignment.architecture.cuts import layer_number
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING, LM_HEAD
from alignment.architecture.family import LAYERS
from alignment.architecture.layout import Layout
from alignment.planner.counts.activations import LastLayer, Pass
from alignment.planner.counts.gradients import Gradients
from alignment.planner.counts.head import DistilledHead, Head, NativeHead
from alignment.planner.counts.operators import FLOAT
from alignment.planner.counts.shapes import Held, stage_layers
from alignment.planner.job import CRITICS, Job

_MOMENT_BYTES = 8
"""AdamW's two moments in float32."""
_BLOCK = 64
"""Numbers in 4 bits that share a float32 scale (``ops.nf4``, which needs Paddle)."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One model in the first tensor-parallel and sharding process of ``stage``."""

    name: str
    """Its role, as in ``Job.models``."""
    config: DecoderConfig
    job: Job
    layout: Layout
    stage: int

    @property
    def is_causal(self) -> bool:
        """Whether it is a language model, not a score model."""
        return self.job.is_language_model(self.name)

    @property
    def is_trained(self) -> bool:
        """Whether it is trained."""
        return self.name in self.job.trained

    @property
    def is_last(self) -> bool:
        """Whether this stage has the head."""
        return self.stage == self.layout.pipeline - 1

    @cached_property
    def held(self) -> Held:
        """Its parts in this process, before sharding."""
        kind = "causal" if self.is_causal else "score"
        head = self.job.score_head if self.is_trained and not self.is_causal else {}
        return Held.of(self.config, kind, self.layout, self.stage, self.adapter, head)

    @property
    def adapter(self) -> Adapter | None:
        """Its adapter, if only that is trained."""
        return self.job.adapters.get(self.name)

    @cached_property
    def trained(self) -> Held:
        """The parts that are trained, before sharding."""
        if self.job.trained_part:
            return self.held.beginning(self.job.trained_part)
        return self.held if self.adapter is None else self.held.with_adapter

    @property
    def is_frozen_below(self) -> bool:
        """Whether nothing goes back through its decoder: only what is above it is trained, in the same process."""
        return bool(self.job.trained_part) and self.layout.pipeline == 1

    @cached_property
    def layers(self) -> list[int]:
        """Number of layers in each chunk of this stage."""
        return stage_layers(self.config, self.layout, self.stage)

    @cached_property
    def weights(self) -> int:
        """Bytes of weights kept between uses; in sharding stage 3 only this process's rows."""
        return (self.held.rows if self._is_sliced else self.held.elements) * self.job.item - self._saved_by_packing

    @cached_property
    def _saved_by_packing(self) -> int:
        """Bytes by which matrices in 4 bits are smaller."""
        if self.adapter is None or not self.job.four_bit:
            return 0
        base = (part for part in self.held.parts if part.name.startswith(LAYERS) and not is_factor(part.name))
        packed = sum(part.size for part in base if len(part.shape) == 2)
        return packed * self.job.item - packed // 2 - packed // _BLOCK * FLOAT

    @cached_property
    def optimizer(self) -> int:
        """Bytes of the moments and of separate float32 parameters.

        These exist for half-precision weights and in sharding stages 1 and 2.
        """
        updated = self.trained.rows if self.layout.sharding_stage else self.trained.elements
        has_copies = self.job.half or self.layout.sharding_stage in (1, 2)
        return updated * (_MOMENT_BYTES + (FLOAT if has_copies else 0))

    @property
    def average(self) -> int:
        """Bytes of the average of its trained weights, which is float32 and in host memory."""
        if not (self.job.keeps_average and self.name == "policy"):
            return 0
        return (self.trained.rows if self._is_sliced else self.trained.elements) * FLOAT

    @cached_property
    def gradients(self) -> Gradients:
        """The gradients of the model."""
        return Gradients(held=self.trained, layout=self.layout, item=self.job.item)

    @cached_property
    def head_elements(self) -> int:
        """Elements of the vocabulary head in this process."""
        if not (self.is_causal and self.is_last):
            return 0
        return self.held.size_of(LM_HEAD) or self.held.size_of(EMBEDDING)

    @property
    def _is_sliced(self) -> bool:
        return self.layout.sharding > 1 and self.layout.sharding_stage == 3

    def whole(self, elements: int) -> int:
        """Sharding stage 3: bytes of gathered weights of so many ``elements``; 0 in other stages."""
        return elements * self.job.item * self._is_sliced

    @cached_property
    def whole_unit(self) -> int:
        """Sharding stage 3: bytes of the weights gathered while a layer (or a larger single matrix) runs."""
        return self.whole(max(sum(part.size for part in unit) for unit in self.held.units))

    @cached_property
    def gathering(self) -> int:
        """Sharding stage 3: the peak while ``whole_unit`` is gathered."""
        return 2 * self.whole_unit + self.whole_unit // self.layout.sharding

    @cached_property
    def whole_head(self) -> int:
        """Sharding stage 3: bytes of the head, which stays gathered until the model runs again or is updated."""
        return self.whole(self.head_elements)

    def one_pass(self, rows: int, *, shares: bool = True, learns: bool = False) -> Pass:
        """Return a pass of ``rows`` full rows, of an update if the model ``learns`` from it; without ``shares`` none
        begins like another.
        """
        saved = self.job.saved_tokens(self.name, rows, trains=learns) if shares else 0
        again = self.job.critic_recompute if self.name in CRITICS else self.job.recompute
        return Pass(
            config=self.config,
            rows=rows,
            length=self.job.length_of(self.name),
            tensor=self.layout.tensor,
            sequence_parallel=self.layout.sequence_parallel,
            item=self.job.item,
            native=self.job.native,
            recompute=again if self.is_trained else "",
            saved=saved,
            adapter=self._kept_by_adapter(rows * self.job.length - saved),
        )

    def last_layer(self, step: Pass, read: int | None = None) -> LastLayer | None:
        """Return the last layer of ``step`` with the tokens of a row that are read, or ``read`` if more are.

        None: this process has no such layer, or it is counted as computing all tokens. So it does under sequence
        parallelism and for most score models; it is counted so in half precision, for interleaved chunks, and where
        gradients are reduced early.
        """
        layout = self.layout
        computes_all = layout.sequence_parallel or not (self.is_causal or self.name in CRITICS)
        if not self.is_last or computes_all:
            return None
        if self.job.half or layout.virtual_stages > 1 or self.gradients.sections:
            return None
        return step.last(read or self.job.response)

    @cached_property
    def last_gradients(self) -> int:
        """Bytes of the gradients of the last layer."""
        last = f"{LAYERS}{self.config.num_hidden_layers - 1}."
        return sum(part.size for part in self.trained.parts if part.name.startswith(last)) * FLOAT

    def _kept_by_adapter(self, tokens: int) -> int:
        """Bytes that the adapter of the layer with most modules keeps: x @ A, twice, and what dropout makes of x."""
        layers: Counter[int] = Counter()
        for part in self.held.parts:
            if self.adapter is not None and part.name.endswith(f".{FACTORS[0]}.weight"):
                inputs = 2 * part.extent[0] if self.adapter.dropout else 0
                layers[layer_number(part.name)] += tokens * (inputs + 2 * self.adapter.rank) * self.job.item
        return max(layers.values(), default=0)

    def head(self, targets: int, *, is_scaled: bool, learns: bool = True) -> Head | None:
        """Return the head computing log-probs of ``targets`` tokens, and what the loss of a pass that ``learns`` needs
        besides; None if this process has none.

        Compiled operators need the whole vocabulary.
        """
        if not self.head_elements:
            return None
        kind = NativeHead if self.job.native and self.layout.tensor == 1 else Head
        if self.job.teacher is not None and learns:
            kind = partial(DistilledHead, tensors=self.job.divergence_tensors)
        return kind(
            config=self.config, targets=targets, tensor=self.layout.tensor, item=self.job.item, is_scaled=is_scaled
        )


def place_models(job: Job, layout: Layout, stage: int) -> dict[str, Placed]:
    """Return the models of ``job`` by name; a teacher may have a layout of its own, without stages."""
    own = job.own_layout(layout)
    return {
        name: (
            Placed(name=name, config=config, job=job, layout=own, stage=0)
            if own and name == "teacher"
            else Placed(name=name, config=config, job=job, layout=layout, stage=stage)
        )
        for name, config in job.models.items()
    }
