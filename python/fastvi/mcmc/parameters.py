"""Named parameters of any shapes and supports as one vector without bounds for each chain, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi.mcmc.bijections import Bijection, Identity

ONLY = "x"
"""Name of the parameter of a log density of bare positions."""


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, its shape for one chain, its support, and its columns among the unconstrained ones."""

    name: str
    shape: tuple[int, ...]
    bijection: Bijection
    unconstrained_shape: tuple[int, ...]
    columns: slice

    def of_position(self, position: Tensor) -> Tensor:
        """Return the unconstrained values, (..., *unconstrained_shape), of positions (..., D)."""
        return position[..., self.columns].reshape(*position.shape[:-1], *self.unconstrained_shape)

    def labels(self) -> list[str]:
        """Return a label for each of the values, as ArviZ has them: theta[0, 1]."""
        if not self.shape:
            return [self.name]
        places = torch.cartesian_prod(*(torch.arange(size) for size in self.shape)).reshape(-1, len(self.shape))
        return [f"{self.name}[{', '.join(map(str, place))}]" for place in places.tolist()]


@dataclass(frozen=True)
class Parameters:
    """All parameters of a log density, in the order in which they were given."""

    parameters: tuple[Parameter, ...]
    is_named: bool

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return [parameter.name for parameter in self]

    @property
    def dimension(self) -> int:
        """D, the number of unconstrained values."""
        return sum(math.prod(parameter.unconstrained_shape) for parameter in self)

    @property
    def is_plain(self) -> bool:
        """Whether positions are the values themselves, side by side."""
        return all(isinstance(parameter.bijection, Identity) for parameter in self)

    def values(self, position: Tensor) -> dict[str, Tensor]:
        """Return the values (..., *shape) of each parameter at positions (..., D)."""
        return {each.name: each.bijection.forward(each.of_position(position)) for each in self}

    def log_det_jacobian(self, position: Tensor) -> Tensor | None:
        """Return (C,) at positions (C, D); None where it is 0 everywhere."""
        total = None
        for each in self:
            if not isinstance(each.bijection, Identity):
                part = each.bijection.log_det_jacobian(each.of_position(position))
                part = part.flatten(1).sum(1) if part.dim() > 1 else part
                total = part if total is None else total + part
        return total

    def position(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return positions (C, D) of values (C, *shape) inside their supports."""
        parts = [
            unconstrained.flatten(1) if unconstrained.dim() > 1 else unconstrained.unsqueeze(1)
            for unconstrained in (each.bijection.inverse(values[each.name]) for each in self)
        ]
        return torch.cat(parts, 1)

    def labels(self) -> list[str]:
        """Return a label for each of the values."""
        return [label for each in self for label in each.labels()]

    def describe(self) -> str:
        """Return names, shapes and supports in one line, which tells one problem from another."""
        return ", ".join(f"{each.name} {each.shape} {each.bijection}" for each in self)


def read_start(
    initial: Any,
    num_chains: int | None,
    bijections: Any,
    default_chains: int,
    places: Mapping[str, slice] | None = None,
) -> tuple[Parameters, Tensor, bool]:
    """Make parameters of what a user gave as the start of chains.

    Parameters
    ----------
    initial, num_chains, bijections
        See :func:`fastvi.mcmc.sample`.
    default_chains
        C where neither of them says it.
    places
        Names and columns of a target's own, which those of ``initial`` must be; those of a tensor get these names.

    Returns
    -------
    tuple
        The parameters; positions (C, D), unconstrained; and whether they are one start for all chains.

    Raises
    ------
    TypeError, ValueError
        If something is not as :func:`fastvi.mcmc.sample` documents it.
    """
    is_named = isinstance(initial, Mapping)
    given = dict(initial) if is_named else {ONLY: initial}
    if places is not None and is_named:
        if given.keys() != places.keys():
            raise ValueError(f"sample: initial must have the target's {', '.join(places)}, got {', '.join(given)}")
        given = {name: given[name] for name in sorted(places, key=lambda name: places[name].start)}
    if not given:
        raise ValueError("sample: initial has no parameters: give a tensor, or a mapping of names to tensors")
    values = _tensors(given, is_named)
    maps = _bijections(bijections, list(values), is_named)
    is_one_start = _is_one_start(values, num_chains, is_named)
    if is_one_start:
        count = default_chains if num_chains is None else num_chains
        values = {name: value.expand(count, *value.shape) for name, value in values.items()}
    count = len(next(iter(values.values())))
    for name, value in values.items():
        if len(value) != count or (num_chains is not None and len(value) != num_chains):
            expected = f"{num_chains}, num_chains" if num_chains is not None else f"{count} of {next(iter(values))!r}"
            raise ValueError(
                f"sample: initial{_of(name, is_named)} has the shape {tuple(value.shape)}, whose first dimension "
                f"counts chains: got {len(value)}, expected {expected}. For one start of all chains leave it out "
                f"and give num_chains"
            )
    if count < 1:
        raise ValueError("sample: initial has no chains: its first dimension is 0")
    parameters, first_column = [], 0
    for name, value in values.items():
        parameter = _parameter(name, value, maps[name], first_column, is_named)
        first_column = parameter.columns.stop
        parameters.append(parameter)
    found = Parameters(tuple(parameters), is_named)
    position = found.position(values).contiguous()
    return found if places is None else _at_places(found, places), position, is_one_start


def _at_places(parameters: Parameters, places: Mapping[str, slice]) -> Parameters:
    """The same parameters where they have a target's columns; those of bare positions, taken apart by its names."""
    if parameters.dimension != sum(place.stop - place.start for place in places.values()):
        sizes = ", ".join(f"{name} {place.stop - place.start}" for name, place in places.items())
        raise ValueError(f"sample: initial has {parameters.dimension} values for each chain, the target has {sizes}")
    if parameters.is_named:
        for each in parameters:
            if each.columns != places[each.name]:
                size = places[each.name].stop - places[each.name].start
                raise ValueError(
                    f"sample: initial[{each.name!r}] has the shape {each.shape} for a chain, expected ({size},)"
                )
        return parameters
    if not parameters.is_plain:
        return parameters
    apart = []
    for name, place in places.items():
        shape = (place.stop - place.start,) if place.stop - place.start > 1 else ()
        apart.append(Parameter(name, shape, Identity(), shape, place))
    return Parameters(tuple(apart), False)


def _of(name: str, is_named: bool) -> str:
    return f"[{name!r}]" if is_named else ""


def _tensors(given: dict[Any, Any], is_named: bool) -> dict[str, Tensor]:
    """The values as detached tensors of one dtype and device.

    Python's numbers have the widest dtype of the tensors and arrays beside them, float64 where there are none.
    """
    values: dict[str, Tensor] = {}
    without_dtype = set()
    for name, value in given.items():
        if is_named and not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"sample: names in initial must be such as Python's arguments have, got {name!r}")
        if isinstance(value, Tensor):
            tensor = value.detach()
        else:
            try:
                tensor = torch.as_tensor(value)
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(
                    f"sample: initial{_of(name, is_named)} must be a tensor, got {type(value).__name__}"
                ) from None
            if not tensor.is_floating_point() or isinstance(value, float | list | tuple):
                tensor = torch.as_tensor(value, dtype=torch.float64)
                without_dtype.add(name)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"sample: initial{_of(name, is_named)} has the dtype {tensor.dtype}, expected float32 or float64: "
                f"float64 is the right one where data or parameters are badly scaled"
            )
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"sample: initial{_of(name, is_named)} is on {tensor.device}; chains run on a CPU or a CUDA device"
            )
        values[name] = tensor
    devices = {str(value.device) for value in values.values()}
    if len(devices) > 1:
        raise ValueError(f"sample: initial has parameters on several devices, {', '.join(sorted(devices))}")
    widths = {value.dtype for name, value in values.items() if name not in without_dtype}
    dtype = torch.float32 if widths == {torch.float32} else torch.float64
    return {name: value.to(dtype) for name, value in values.items()}


def _bijections(bijections: Any, names: list[str], is_named: bool) -> dict[str, Bijection]:
    if not is_named and isinstance(bijections, Bijection):
        bijections = {ONLY: bijections}
    given = {} if bijections is None else bijections
    if not isinstance(given, Mapping):
        raise TypeError(
            f"sample: bijections must be a mapping of names to bijections such as Positive(), "
            f"got {type(bijections).__name__}"
        )
    for name, bijection in given.items():
        if name not in names:
            raise ValueError(f"sample: bijections names {name!r}, but initial has {', '.join(map(repr, names))}")
        if not isinstance(bijection, Bijection):
            is_class = isinstance(bijection, type) and issubclass(bijection, Bijection)
            hint = f"; write {bijection.__name__}()" if is_class else ""
            raise TypeError(
                f"sample: bijections[{name!r}] must be a bijection such as Positive(), got {bijection!r}{hint}"
            )
    return {name: given.get(name, Identity()) for name in names}


def _is_one_start(values: dict[str, Tensor], num_chains: int | None, is_named: bool) -> bool:
    """Whether the values are one start: positions without, or any parameters where ``num_chains`` is given."""
    if not is_named:
        (value,) = values.values()
        if value.dim() not in (1, 2):
            raise ValueError(
                f"sample: initial must have the shape (C, D) for C chains, or (D,) for one start of num_chains chains, "
                f"got {tuple(value.shape)}"
            )
        return value.dim() == 1
    if num_chains is None:
        # A parameter without dimensions has none that could count chains.
        return any(value.dim() == 0 for value in values.values())
    if all(value.dim() > 0 and len(value) == num_chains for value in values.values()):
        raise ValueError(
            f"sample: the first dimension of every parameter in initial is {num_chains}, as num_chains is: leave "
            f"num_chains out if it counts chains; if all chains start there, give each value .expand({num_chains}, ...)"
        )
    return True


def _parameter(name: str, value: Tensor, bijection: Bijection, first_column: int, is_named: bool) -> Parameter:
    shape = tuple(value.shape[1:])
    try:
        unconstrained_shape = bijection.unconstrained_shape(shape)
    except ValueError as error:
        raise ValueError(f"sample: bijections[{name!r}]: {error}") from None
    size = math.prod(unconstrained_shape)
    if size < 1:
        raise ValueError(f"sample: initial{_of(name, is_named)} has no values: its shape for a chain is {shape}")
    inside = bijection.contains(value)
    if not bool(inside.all()):
        chain = int((~inside.flatten(1).all(1) if inside.dim() > 1 else ~inside).nonzero()[0])
        shown = value[chain].flatten()[:6].tolist()
        raise ValueError(
            f"sample: initial{_of(name, is_named)} must be {bijection.support}, got "
            f"{', '.join(f'{number:g}' for number in shown)}{', ...' if value[chain].numel() > 6 else ''} "
            f"in chain {chain}"
        )
    return Parameter(name, shape, bijection, unconstrained_shape, slice(first_column, first_column + size))
