"""A decoder with a score head: reward model, cost model, critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from alignment.architecture.adapter import Adapter
from alignment.architecture.cuts import whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.decoder.decoder import Decoder
from alignment.models.decoder.gating import GATING, GatingNetwork, GatingOptions
from alignment.models.decoder.layers import Linear
from alignment.models.decoder.normalizers import build_normalizer
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.step_scores import aggregate_steps, read_step_options, step_ends
from alignment.ops.host_arrays import from_host
from alignment.records import TokenBatch

NORMALIZATION = {"reward": "affine", "cost": "scale", "critic": "identity"}
"""The kind of normalisation for each type of score."""
SCORE_FORMS = ("end", "average", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """The settings of a score model, saved in its config.json."""

    score_type: str = "reward"
    """``reward``, ``cost`` or ``critic``."""
    score_bias: bool = False
    score_form: str = "end"
    """A sequence's score: that of its last token (``end``), the mean over the tokens of its answer (``average``), or
    ``step_aggregation`` over its probabilities at the tokens that end a step of the answer (``steps``)."""
    step_token_id: int | None = None
    """The token that ends a step; an answer without it is one step."""
    step_aggregation: str | None = None
    """``min``, ``product``, ``mean`` or ``last``."""
    do_normalize: bool = False
    """Whether scores are normalised in training and evaluation."""
    normalizer_type: str | None = None
    normalizer_momentum: float | None = None
    labels: tuple[str, ...] = ()
    """Names of the scores of a model with several (attributes); empty: one score."""
    gating: GatingOptions | None = None
    """The network that makes one score of several; None: there is none."""

    @property
    def num_labels(self) -> int:
        """The number of scores of each token."""
        return max(1, len(self.labels))

    @property
    def needs_starts(self) -> bool:
        """Whether the score of a sequence depends on where its answer starts."""
        return self.score_form in ("average", "steps") or self.gating is not None

    def head(self, width: int) -> dict[str, Any]:
        """Return the sizes of what is above a decoder of ``width``, as ``whole_shapes`` takes them."""
        sizes = self.gating.sizes(width, self.num_labels) if self.gating else ()
        return {"score_bias": self.score_bias, "num_labels": self.num_labels, "gating_sizes": sizes}

    def to_dict(self) -> dict[str, Any]:
        """Return the keys for config.json; labels are written as in Hugging Face's format."""
        keys = {name: value for name, value in asdict(self).items() if name != GATING}
        keys["momentum"] = keys.pop("normalizer_momentum")
        names = keys.pop("labels") or ("LABEL_0",)
        by_number = {str(number): name for number, name in enumerate(names)}
        return {
            "num_labels": len(names),
            "id2label": by_number,
            "label2id": {name: int(number) for number, name in by_number.items()},
            **keys,
            **({GATING: self.gating.to_dict()} if self.gating else {}),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ScoreOptions:
        """Read the keys of a config.json; those of safe-rlhf and PaddleNLP are understood too."""
        return cls(
            score_type=raw.get("score_type", "reward"),
            score_bias=bool(raw.get("score_bias", "score_type" in raw and raw.get("bias", False))),
            score_form=_known_form(raw.get("score_form", "end")),
            **read_step_options(raw),
            do_normalize=bool(raw.get("do_normalize", False)),
            normalizer_type=raw.get("normalizer_type"),
            normalizer_momentum=raw.get("momentum"),
            labels=_labels(raw),
            gating=GatingOptions.from_dict(raw.get(GATING)),
        )


class ScoreModel(nn.Layer):
    """Scores every token in float32; ``ScoreOptions.score_form`` says what the score of a sequence is.

    The score head is on the last pipeline stage, unsplit on each tensor process.
    """

    kind = "score"

    def __init__(
        self,
        config: DecoderConfig,
        options: ScoreOptions,
        *,
        dtype: str = "float32",
        placement: Placement = WHOLE,
    ) -> None:
        super().__init__(dtype=dtype)
        self.config = config
        self.options = options
        self.placement = placement
        self.adapter: Adapter | None = None
        """What ``models.adapters.attach`` attached."""
        head = options.head(config.head_width)
        self.whole_shapes = whole_shapes(config, self.kind, **head)
        """The shape of every parameter of the unsplit model, by name."""
        self.parts = placement.parts(config, self.kind, **head)
        """The part of each parameter that this process holds, by name."""
        self.model = Decoder(config, dtype=dtype, placement=placement)
        self.score = self.gating = None
        if placement.is_last:
            self.score = Linear(config.head_width, options.num_labels, bias=options.score_bias, dtype="float32")
            if options.gating:
                self.gating = GatingNetwork(options.gating, config.head_width, options.num_labels)
        self.normalizer = build_normalizer(options.normalizer_type, options.normalizer_momentum)
        self._unlearned: list[np.ndarray] = []

    @property
    def has_statistics(self) -> bool:
        """Whether the normalizer has learned from scores."""
        return self.options.normalizer_type is not None and self.normalizer.count > 0

    def token_scores(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Return float32 scores [...] of hidden states [..., H]; [..., k] of a model with k > 1 labels."""
        scores = self.score(hidden.astype(self.score.weight.dtype))
        return scores if self.options.num_labels > 1 else scores.squeeze(-1)

    def forward(self, batch: TokenBatch) -> paddle.Tensor:
        """Return the raw score [n, S] (or scores [n, S, k]) at every token of ``batch``."""
        return self.token_scores(self.model(batch.input_ids, lengths=batch.lengths))

    def read_end_scores(self, batch: TokenBatch) -> paddle.Tensor:
        """Return the raw score [n] (or scores [n, k]) of each row.

        A model that averages or has a gating network needs the field ``answer_starts`` [n]: the position of each
        answer's first token.
        """
        if self.options.gating is None:
            return (
                self._scores_at_ends(batch) if self.options.score_form == "end" else self._of_rows(self(batch), batch)
            )
        starts = np.clip(batch.fields["answer_starts"], 1, batch.lengths)
        rows = np.tile(np.arange(batch.num_rows), 2)
        before, last = self.model.at(batch, rows, np.concatenate([starts, batch.lengths]) - 1).split(2)
        weights, scores = self.gating(before), self.token_scores(last)
        penalties = self.options.gating.length_penalties
        return (weights * self.gating.corrected(scores, batch.lengths - starts, penalties)).sum(axis=-1)

    def read_attributes(self, batch: TokenBatch) -> paddle.Tensor:
        """Return the scores [n, k] at the last token of each row, whatever makes one score of them."""
        return self._scores_at_ends(batch).reshape([batch.num_rows, -1])

    def _scores_at_ends(self, batch: TokenBatch) -> paddle.Tensor:
        """Return the raw score [n] (or scores [n, k]) at the last token of each row."""
        return self.token_scores(self.model.at(batch, np.arange(batch.num_rows), batch.lengths - 1))

    def _of_rows(self, scores: paddle.Tensor, batch: TokenBatch) -> paddle.Tensor:
        if self.options.score_form == "end":
            return end_scores(scores, batch.lengths)
        if self.options.score_form == "steps":
            is_step = step_ends(batch, self.options.step_token_id)
            return aggregate_steps(scores, paddle.to_tensor(is_step), self.options.step_aggregation)
        return average_scores(scores, batch.fields["answer_starts"], batch.lengths)

    def training_scores(self, batch: TokenBatch, *, only_ends: bool = False) -> paddle.Tensor:
        """Return the scores [n, S] for a loss, normalised if the model is configured so.

        ``only_ends``: only those at last tokens are needed, the others may be zeros. In training mode the scores of
        the rows are kept for ``learn_statistics`` either way, so that PPO can normalise the scores of a reward model
        that was trained on raw ones.
        """
        is_sparse = only_ends and self.options.score_form == "end"
        scores = _at_ends(self._scores_at_ends(batch), batch) if is_sparse else self(batch)
        if self.training:
            self._unlearned.append(self._of_rows(scores.detach(), batch).numpy())
        return self.apply_normalization(scores)

    def learn_statistics(self, share: Callable[[list[np.ndarray]], list[np.ndarray]] = list) -> None:
        """Update the normalizer with the scores of all rows since the last call as one batch; called once per update.

        ``share`` (``ModelRunner.share``) turns this process's arrays, one per micro-batch, into those of all processes
        in order, so all of them must call this; they learn the same statistics.
        """
        scores = share(self._unlearned)
        self._unlearned = []
        if scores:
            self.normalizer.update(np.concatenate(scores))

    def apply_normalization(self, scores: Any) -> Any:
        """Return raw ``scores``, normalised if the model is configured so."""
        return self.normalize_scores(scores) if self.options.do_normalize else scores

    def normalize_scores(self, scores: Any) -> Any:
        """Return raw scores (numpy or paddle) normalised by the model's statistics."""
        return self.normalizer.normalize(scores, NORMALIZATION[self.options.score_type])


def end_scores(scores: paddle.Tensor, lengths: np.ndarray) -> paddle.Tensor:
    """Return the scores [n] (or [n, k]) at positions ``lengths`` - 1 of scores [n, S] (or [n, S, k])."""
    last = paddle.to_tensor(np.asarray(lengths, np.int64) - 1).reshape([-1, *[1] * (scores.ndim - 1)])
    last = last.expand([-1, 1, *scores.shape[2:]])
    return paddle.take_along_axis(scores, last, axis=1).squeeze(1)


def _at_ends(scores: paddle.Tensor, batch: TokenBatch) -> paddle.Tensor:
    """Return [n, S] with ``scores`` [n] at the last token of each row of ``batch``, zero elsewhere."""
    rows, width = batch.input_ids.shape
    cells = from_host(np.arange(rows) * width + batch.lengths - 1)
    return paddle.scatter_nd(cells.unsqueeze(-1), scores, [rows * width]).reshape([rows, width])


def average_scores(scores: paddle.Tensor, starts: np.ndarray, lengths: np.ndarray) -> paddle.Tensor:
    """Return the mean [n] of scores [n, S] over positions ``starts`` to ``lengths`` - 1, at least the last one."""
    positions = np.arange(scores.shape[1])[None, :]
    first = np.minimum(starts, lengths - 1)[:, None]
    inside = ((positions >= first) & (positions < lengths[:, None])).astype(np.float32)
    weights = paddle.to_tensor(inside / inside.sum(axis=1, keepdims=True))
    return (scores * weights.astype(scores.dtype)).sum(axis=1)


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of several scores, from ``id2label`` or ``num_labels``; empty for one."""
    by_number = raw.get("id2label") or {}
    count = raw.get("num_labels") or len(by_number)
    if not isinstance(count, int) or count < 2:
        return ()
    return tuple(str(by_number.get(str(number), f"LABEL_{number}")) for number in range(count))


def _known_form(name: Any) -> str:
    """Return ``score_form``; another word than those known is a ``ModelFolderError``."""
    if name not in SCORE_FORMS:
        raise ModelFolderError(f"config.json has score_form={name!r} (allowed: {', '.join(SCORE_FORMS)})")
    return name
