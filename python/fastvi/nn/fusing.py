"""Putting the fused perceptron under the ``nn.Sequential`` modules of a model, and taking it away again."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from fastvi.nn.layers import activation_of, first_run, obstacle
from fastvi.nn.sequential import FusedSequential


class Fused(NamedTuple):
    """What :func:`fuse` did; printed, it is a line for each.

    Attributes
    ----------
    fused
        The runs of layers that are one operation now, such as ``"encoder.0 to encoder.3"``.
    left
        What was left alone, with the reason: ``"decoder.2: it has hooks"``.
    """

    fused: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"fused {each}" for each in self.fused] + [f"left {each}" for each in self.left]
        return "\n".join(lines) or "no linear layers"


def fuse(model: nn.Module) -> Fused:
    """Let the linear layers and activations in a model's ``nn.Sequential`` modules run as :func:`fastvi.mlp`.

    The model is changed in place: an ``nn.Sequential`` that has a linear layer followed by an activation becomes a
    :class:`fastvi.nn.FusedSequential`. Its modules and parameters, the keys of the ``state_dict``, and what an
    optimiser holds, stay the same. A :class:`fastvi.models.VAE` runs its layers as one operation from the beginning.

    Parameters
    ----------
    model
        Any module: an ``nn.Sequential`` itself, or one that has some inside.

    Returns
    -------
    Fused
        What was fused, and which linear layers were left alone, and why: because they have hooks or parametrizations,
        are used in two places, stand by themselves or in no ``nn.Sequential``, or have a dtype other than float32 and
        float64.

    Raises
    ------
    TypeError
        If ``model`` is no ``nn.Module``.

    Examples
    --------
    >>> import fastvi
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
    >>> print(fastvi.fuse(model))
    fused 0 to 1
    left 3: no activation is next to it
    >>> fastvi.unfuse(model)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse: model must be a torch.nn.Module, got {type(model).__name__}")
    uses = Counter(
        id(child) for module in model.modules() for child in module._modules.values() if isinstance(child, nn.Linear)
    )
    fused: list[str] = []
    left: list[str] = []
    settled: set[int] = set()  # the modules that need no further word
    for name, module in model.named_modules():
        parts = getattr(module, "fused_parts", ())
        if parts:
            left.append(f"{name or 'the model'}: a {type(module).__name__} runs its layers as one operation already")
            named = (getattr(module, part, None) for part in parts)
            settled.update(id(inner) for part in named if isinstance(part, nn.Module) for inner in part.modules())
    for name, module in model.named_modules():
        if id(module) in settled or not (type(module) is nn.Sequential or isinstance(module, FusedSequential)):
            continue
        children = {key: child for key, child in module._modules.items() if child is not None}
        shared = frozenset(key for key, child in children.items() if uses[id(child)] > 1)
        runs = _runs(children, shared)
        if runs and type(module) is nn.Sequential:
            module.__class__ = FusedSequential
        if isinstance(module, FusedSequential):
            module.left_alone = shared
        for run in runs:
            fused.append(f"{_joined(name, run[0])} to {_joined(name, run[-1])}")
            settled.update(id(children[key]) for key in run)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and id(module) not in settled:
            left.append(f"{name or 'the model'}: {_reason(model, name, module, uses[id(module)])}")
    return Fused(tuple(fused), tuple(left))


def unfuse(model: nn.Module) -> None:
    """Undo :func:`fuse`: the ``nn.Sequential`` modules are what they were.

    Raises
    ------
    TypeError
        If ``model`` is no ``nn.Module``.

    Examples
    --------
    >>> import fastvi
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    >>> _ = fastvi.fuse(model)
    >>> fastvi.unfuse(model)
    >>> type(model) is nn.Sequential
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"unfuse: model must be a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if type(module) is FusedSequential:
            module.__dict__.pop("left_alone", None)
            plain: nn.Module = module
            plain.__class__ = nn.Sequential


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _runs(children: dict[str, nn.Module], shared: frozenset[str]) -> list[list[str]]:
    """The keys of those modules that are one operation, for each such run."""
    keys, modules = list(children), list(children.values())
    runs, place = [], 0
    while place < len(modules):
        end = next((i for i in range(place, len(modules)) if keys[i] in shared), len(modules))
        run = first_run(modules[place:end])
        if run is not None:
            runs.append(keys[place : place + run.length])
        place += 1 if run is None else run.length
    return runs


def _reason(model: nn.Module, name: str, layer: nn.Linear, num_uses: int) -> str:
    """Why a linear layer is in no run."""
    if num_uses > 1:
        return "it is used in two places"
    if parametrize.is_parametrized(layer):
        return "it has parametrizations"
    if isinstance(layer, nn.LazyLinear):
        return "it has no shape yet; call the model once before fusing it"
    own = obstacle(layer)
    if own is not None:
        return own
    parent = model.get_submodule(name.rpartition(".")[0]) if name else None
    if not isinstance(parent, nn.Sequential):
        return "it stands in no nn.Sequential; fastvi.mlp takes its weight"
    if not isinstance(parent, FusedSequential) and type(parent) is not nn.Sequential:
        return f"it stands in a {type(parent).__name__}, a class of its own"
    modules = list(parent._modules.values())
    after = modules[modules.index(layer) + 1 : modules.index(layer) + 2]
    if after and after[0] is not None and activation_of(after[0]) is not None:
        return f"of the activation after it: {obstacle(after[0])}"
    return "no activation is next to it"
