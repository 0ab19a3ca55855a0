"""Answers with values of several attributes, for reward models that predict them."""

from __future__ import annotations

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.supervised import SupervisedDataset
from alignment.data.encoded.tokenized import Encoded
from alignment.data.ledger import NO_ATTRIBUTE, BadRow
from alignment.data.raw.raw_sample import require_fields
from alignment.errors import DataError


class AttributeDataset(SupervisedDataset):
    """Samples of a ``SupervisedDataset`` with ``attributes``: a list of k floats, None where the value is missing.

    Reads ``attributes`` in addition; a row without a single value is dropped.
    """

    KIND = "regression"
    COMPARES_ANSWERS = True

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode the answer with its attributes."""
        require_fields(row.sample, ("attributes",), kind=self.KIND, place=row.place)
        if row.sample.get("other_answer") is not None:
            raise DataError(f"{row.place}: a pair of answers, and attributes belong to one answer")
        values = row.sample["attributes"]
        if all(value is None for value in values):
            raise BadRow(NO_ATTRIBUTE, f"{row.place}: no attribute has a value")
        kept = {name: value for name, value in row.sample.items() if name != "desirable"}
        encoded = super().encode_row(row._replace(sample=kept), encoder)
        if encoded.sample is None:
            return encoded
        return encoded._replace(sample={**encoded.sample, "attributes": values})
