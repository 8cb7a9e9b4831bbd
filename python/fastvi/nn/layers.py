"""Reading linear layers and activations out of modules, where running them is all that calling the modules does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from fastvi import ops
from fastvi.ops._backends import CUDA_IS_BUILT
from fastvi.ops._private import autocast_active, tracing_state

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DTYPES = frozenset({torch.float32, torch.float64})


def _always(module: Any) -> bool:
    return True


_ACTIVATIONS: dict[type[nn.Module], tuple[str, Callable[[Any], bool]]] = {
    nn.Tanh: ("tanh", _always),
    nn.Sigmoid: ("sigmoid", _always),
    nn.ReLU: ("relu", _always),
    nn.Softplus: ("softplus", lambda module: module.beta == 1.0 and module.threshold >= 20.0),
    nn.ELU: ("elu", lambda module: module.alpha == 1.0),
    nn.SiLU: ("silu", _always),
    nn.GELU: ("gelu", lambda module: module.approximate == "none"),
}
"""The modules' names in the operations, and whether their options are those of the operations."""

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {name: module for module, (name, _) in _ACTIVATIONS.items()}


class Layers(NamedTuple):
    """Linear layers, each but the last, or each, with the same activation after it."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    activation: str
    activate_last: bool


def obstacle_of_call(module: nn.Module) -> str | None:
    """Why calling a module is more than the forward of its class; None where it is not."""
    own = module.__dict__
    for name in _HOOKS:
        if own.get(name):
            return "it has hooks"
    if "forward" in own or own.get("_compiled_call_impl") is not None:
        return "its forward is not that of its class"
    return None


def obstacle(module: nn.Module) -> str | None:
    """Why calling a linear layer or an activation is more than its formula; None where it is not."""
    found = obstacle_of_call(module)
    if found is not None:
        return found
    own = module.__dict__
    if type(module) is nn.Linear:
        weight, bias = own["_parameters"].get("weight"), own["_parameters"].get("bias")
        if type(weight) is not nn.Parameter or (bias is not None and type(bias) is not nn.Parameter):
            return "its weight is no plain parameter"
        if weight.dtype not in _DTYPES:
            return f"its weight has dtype {weight.dtype}"
        return None
    known = _ACTIVATIONS.get(type(module))
    if known is None:
        return f"it is of class {type(module).__name__}"
    return None if known[1](module) else f"the operations have {known[0]} without options"


def activation_of(module: nn.Module) -> str | None:
    """The operations' name of an activation; None for other modules."""
    known = _ACTIVATIONS.get(type(module))
    return None if known is None else known[0]


def runs_by_itself(x: object, in_autocast: bool = False, compiled: bool = False) -> bool:
    """Whether modules called with x run their formulas as they stand, and the operations have kernels for x.

    Hooks of all modules watch the calls, and compilers and tracers do better with the modules' own operators. In
    autocast modules give another dtype than the operations: ``in_autocast`` says that either will do. ``compiled``
    says that torch.compile may trace the operations in their place.
    """
    return (
        isinstance(x, Tensor)
        and (x.is_cpu or (x.is_cuda and CUDA_IS_BUILT))
        and (in_autocast or not autocast_active())
        and (compiled or not torch.compiler.is_compiling())
        and tracing_state() is None
        and not nn_module._has_any_global_hook()  # type: ignore[no-untyped-call, unused-ignore]
    )


class Run(NamedTuple):
    """Layers at the front of a list of modules, and how many modules they are."""

    layers: Layers
    length: int


def first_run(modules: Sequence[nn.Module]) -> Run | None:
    """The longest perceptron that the modules begin with: two linear layers, or one with its activation, at least."""
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    activation: str | None = None
    activate_last = False
    count = 0
    while count < len(modules):
        linear = modules[count]
        if type(linear) is not nn.Linear or (weights and not activate_last) or obstacle(linear) is not None:
            break
        parameters = linear.__dict__["_parameters"]
        weights.append(parameters["weight"])
        biases.append(parameters["bias"])
        activate_last = False
        count += 1
        if count == len(modules):
            break
        found = activation_of(modules[count])
        if found is None or activation not in (None, found) or obstacle(modules[count]) is not None:
            break
        activation, activate_last = found, True
        count += 1
    if activation is None:
        return None
    return Run(Layers(weights, biases, activation, activate_last), count)


def run_layers(x: Tensor, layers: Layers) -> Tensor:
    """The layers as one operation."""
    return ops.mlp(x, layers.weights, layers.biases, layers.activation, layers.activate_last)
