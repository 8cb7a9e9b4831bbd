"""The ``nn.Sequential`` that runs its linear layers and activations as fused operations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from fastvi.nn.layers import Layers, first_run, obstacle_of_call, run_layers, runs_by_itself


class FusedSequential(nn.Sequential):
    """An ``nn.Sequential`` whose linear layers, with the activations between them, run as :func:`fastvi.mlp`.

    Modules of other kinds run as they do. So does each layer that has a hook, or another weight than a plain parameter
    of float32 or float64, when it is called, and every layer in autocast, under ``torch.compile`` and other tracers,
    and on devices without kernels.

    Examples
    --------
    >>> import torch
    >>> model = FusedSequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(-1))
    >>> model(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    left_alone: frozenset[str] = frozenset()
    """Names of the layers that are never fused."""

    def forward(self, input: Tensor) -> Tensor:
        """Call the modules one after the other."""
        modules: list[Any] = list(self._modules.values())
        if not runs_by_itself(input):
            for module in modules:
                input = module(input)
            return input
        barred = [i for i, name in enumerate(self._modules) if name in self.left_alone] if self.left_alone else []
        place = 0
        while place < len(modules):
            run = None
            if type(modules[place]) is nn.Linear:
                end = next((i for i in barred if i >= place), len(modules))
                run = first_run(modules[place:end])
            if run is None:
                input = modules[place](input)
                place += 1
            else:
                input = run_layers(input, run.layers)
                place += run.length
        return input


_FORWARDS = (nn.Sequential.forward, FusedSequential.forward)


def read_layers(
    x: object, parts: Iterable[nn.Module], in_autocast: bool = False, compiled: bool = False
) -> Layers | None:
    """The layers of modules that are called one after the other with x; None where they have to be called themselves.

    Sequences among the modules count as what they hold. ``in_autocast`` and ``compiled`` are those of
    :func:`runs_by_itself`.
    """
    if not runs_by_itself(x, in_autocast, compiled):
        return None
    modules: list[nn.Module] = []
    for part in parts:
        if not isinstance(part, nn.Sequential):
            modules.append(part)
        elif type(part).forward not in _FORWARDS or obstacle_of_call(part) is not None:
            return None
        else:
            modules.extend(module for module in part._modules.values() if module is not None)
    run = first_run(modules)
    return run.layers if run is not None and run.length == len(modules) else None
