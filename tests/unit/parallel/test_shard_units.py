"""Units of a model: layers of a stack as a whole, all else layer by layer, shared parameters in both."""

import paddle
from paddle import nn

from alignment.parallel.sharding.units import find_units


class _Block(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2, bias_attr=False)


class _Model(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.layers = nn.LayerList([_Block(), _Block()])
        self.empty = nn.Tanh()
        self.scale = self.create_parameter([2])
        self.head = nn.Linear(2, 3, bias_attr=False)
        self.again = nn.Embedding(3, 2)
        self.again.weight = self.embed.weight


def test_units_and_their_names():
    model = _Model()
    units = find_units(model)
    assert [unit.names for unit in units] == [
        ("scale",),
        ("embed.weight",),
        ("layers.0.first.weight", "layers.0.first.bias", "layers.0.second.weight"),
        ("layers.1.first.weight", "layers.1.first.bias", "layers.1.second.weight"),
        ("head.weight",),
        ("embed.weight",),
    ]
    assert units[2].layer is model.layers[0]
    assert units[5].layer is model.again


def test_a_plain_stack():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias_attr=False))
    assert [unit.names for unit in find_units(model)] == [("0.weight", "0.bias"), ("2.weight",)]
    assert find_units(nn.Linear(1, 1))[0].names == ("weight", "bias")
    assert find_units(nn.ReLU()) == []
    assert isinstance(find_units(model)[0].layer, paddle.nn.Linear)
