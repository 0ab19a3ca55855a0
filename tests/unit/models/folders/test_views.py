"""Views of stored tensors."""

from __future__ import annotations

import copy
from types import SimpleNamespace

from alignment.models.folders.views import Renamed


def test_a_view_can_be_copied():
    view = copy.copy(Renamed(SimpleNamespace(shape=(2, 3)), "model.norm.weight"))
    assert (view.name, view.shape) == ("model.norm.weight", (2, 3))
