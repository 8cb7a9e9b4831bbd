"""fastvi.nn.MLP: the perceptron as a module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fastvi._perceptron import ACTIVATIONS
from fastvi.nn import MLP, FusedSequential

MODULES = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("activate_last", [False, True])
def test_it_is_the_sequence_of_its_layers(activation, activate_last):
    torch.manual_seed(0)
    model = MLP((5, 9, 7, 3), activation, activate_last=activate_last)
    kinds = [type(module) for module in model]
    expected = [nn.Linear, MODULES[activation]] * 3
    assert kinds == (expected if activate_last else expected[:-1])
    plain = nn.Sequential(*copy.deepcopy(list(model)))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(4, 5)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)


def test_initial_weights_are_those_of_linear_layers():
    torch.manual_seed(0)
    model = MLP((5, 9, 3))
    torch.manual_seed(0)
    first, second = nn.Linear(5, 9), nn.Linear(9, 3)
    assert torch.equal(model[0].weight, first.weight)
    assert torch.equal(model[2].bias, second.bias)


def test_options():
    model = MLP((5, 9, 3), "relu", bias=False, device="meta", dtype=torch.float64)
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    assert MLP(torch.Size([5, 3]))(torch.ones(5)).shape == (3,)


def test_copies_and_slices():
    model = MLP((5, 9, 7, 3), "elu")
    x = torch.randn(4, 5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is MLP
        assert torch.equal(other(x), model(x))
    front = model[:2]
    assert type(front) is FusedSequential
    assert [*front] == [model[0], model[1]]
    torch.testing.assert_close(model[2:](front(x)), model(x), rtol=1e-5, atol=1e-6)
    assert isinstance(model[-1], nn.Linear)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((5,),), ValueError, r"dims must be two positive integers at least, got \(5,\)"),
        (((5, 0),), ValueError, r"dims must be two positive integers at least, got \(5, 0\)"),
        (((5, 2.0),), TypeError, r"dims\[1\] must be an int, got float"),
        ((5,), TypeError, "dims must be a sequence of integers, got int"),
        (("53",), TypeError, "dims must be a sequence of integers, got str"),
        (((5, 3), "leaky"), ValueError, "activation must be one of tanh, .*, got 'leaky'"),
        (((5, 3), None), ValueError, "activation must be one of tanh, .*, got None"),
        (((5, 3), "tanh", 2), TypeError, "activate_last must be a bool, got int"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^MLP: {message}"):
        MLP(*arguments)
