"""What native targets share: their parameters' places, the priors that are added to them, and how they are called."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvi.mcmc.integrators import PhasePoint, Target, as_target, integrate
from fastvi.mcmc.targets.prior import EXPONENTIAL, HEAVY_TAIL, MAGNITUDE, SQUARE, Place, Prior
from fastvi.ops._backends import MODULES


class NativeTarget(ABC):
    """A log density whose gradient needs no autograd, for all chains at once.

    ``target(positions)`` of positions (C, D) gives the log density (C,) in nats and its gradient (C, D), both without
    history. NaN in a chain's position gives NaN for that chain. Positions have the target's dtype and device.

    ``target + prior`` adds a prior, ``target + other`` another target or a Python function of positions.

    Attributes
    ----------
    dimension
        D.
    parameters
        The place of each parameter in the position, by its name.
    dtype, device
        Of positions.
    """

    is_target: ClassVar[bool] = True
    takes_dense_mass: ClassVar[bool] = True
    """That :func:`fastvi.mcmc.integrate` leaves trajectories with a dense mass to :meth:`trajectory`, too."""

    def __init__(self, sizes: Mapping[str, int], dtype: torch.dtype, device: torch.device) -> None:
        self.parameters: dict[str, slice] = {}
        start = 0
        for name, size in sizes.items():
            if size > 0:
                self.parameters[name] = slice(start, start + size)
                start += size
        if start == 0:
            raise ValueError(f"{type(self).__name__}: x has no columns, and no other parameter is sampled")
        self.dimension = start
        self.dtype, self.device = dtype, device
        self._priors = torch.zeros(0, 6, dtype=torch.float64)
        self._prior_groups: list[tuple[int, Tensor, Tensor]] = []
        self._constant = 0.0

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density ``(C,)`` and its gradient ``(C, D)`` at positions ``(C, D)``.

        Raises
        ------
        TypeError, ValueError
            If positions have another shape, dtype or device.
        """
        self._check(position)
        if self._runs_kernel(position):
            start = position.contiguous()
            found: tuple[Tensor, Tensor] = self._native(start, None, None, 0.0, None, 0)
            return found
        with torch.no_grad():
            return self._by_products(position.detach())

    def trajectory(
        self, point: PhasePoint, step_size: Tensor | float, num_steps: int, inverse_mass: Tensor | None = None
    ) -> PhasePoint:
        """Follow whole trajectories of leapfrog steps in one native call, where there is one.

        Parameters
        ----------
        point
            Where they begin: positions and momenta ``(C, D)``.
        step_size
            A number, or a tensor: ``()``, or ``(C,)`` or ``(C, 1)`` for one for each chain.
        num_steps
            Leapfrog steps, at least one.
        inverse_mass
            Diagonal of the inverse mass ``(D,)``, or the whole of it ``(D, D)``; the identity where not given.

        Returns
        -------
        PhasePoint
            The end, its momentum not negated: that of :func:`fastvi.mcmc.leapfrog` but for roundings.

        Raises
        ------
        ValueError
            If ``num_steps`` is not positive, or a shape is another.
        """
        position = point.position
        self._check(position)
        chains = len(position)
        if num_steps < 1:
            raise ValueError(f"{type(self).__name__}: num_steps must be positive, got {num_steps}")
        size = self.dimension
        if inverse_mass is not None and inverse_mass.shape not in ((size,), (size, size)):
            raise ValueError(
                f"{type(self).__name__}: inverse_mass must have the shape ({size},) or ({size}, {size}), "
                f"got {tuple(inverse_mass.shape)}"
            )
        if isinstance(step_size, Tensor):
            if step_size.numel() != 1 and step_size.shape not in ((chains,), (chains, 1)):
                raise ValueError(
                    f"{type(self).__name__}: step_size must be a number or have the shape () or ({chains},), "
                    f"got {tuple(step_size.shape)}"
                )
            step_size = step_size.to(self.dtype).reshape(-1, 1).expand(chains, 1)
        if not self._runs_kernel(position):
            with torch.no_grad():
                start = PhasePoint(*[each.detach() for each in point])
                return integrate(self.__call__, start, step_size, num_steps, inverse_mass)
        step = float(step_size) if not isinstance(step_size, Tensor) else step_size.contiguous()
        mass = None if inverse_mass is None else inverse_mass.contiguous()
        end = self._native(
            position.contiguous(), point.momentum.contiguous(), point.gradient.contiguous(), step, mass, num_steps
        )
        return PhasePoint(*end)

    def __add__(self, other: Prior | Callable[[Tensor], Any]) -> Any:
        if isinstance(other, Prior):
            result = copy.copy(self)
            result._take(other)
            return result
        return SumTarget(self, as_target(other)) if callable(other) else NotImplemented

    def __radd__(self, other: Prior | Callable[[Tensor], Any]) -> Any:
        return self + other

    def _take(self, prior: Prior, name: str = "") -> None:
        """Add a prior to this target, under the name of its class in messages if no other is given."""
        name, term = name or type(prior).__name__, prior.terms()
        places = self._places(name, prior.on)
        if term is None:
            return
        if term.location.dim() == 1 and len(term.location) != len(places):
            raise ValueError(
                f"{name}: has {len(term.location)} numbers, but is on {len(places)} of the {self.dimension} numbers of "
                f"the position"
            )
        columns = [torch.full((len(places),), float(term.kind), dtype=torch.float64), places.double()]
        columns += [each.expand(len(places)) for each in term[1:]]
        table = torch.stack(columns, 1)
        self._priors = torch.cat([self._priors, table[:, :6]])
        self._constant += float(table[:, 6].sum())
        # Without the kernel: a kind with its places, and its numbers in rows of location, rate, weight and slope.
        numbers = table[:, 2:6].T.to(self.device, self.dtype)
        if not bool((2.0 * numbers).isfinite().all()):
            raise ValueError(
                f"{name}: {self.dtype} does not hold 1 / scale², or another number of it: take other units"
            )
        self._prior_groups = [*self._prior_groups, (term.kind, places.to(self.device), numbers)]

    def _places(self, name: str, on: Place) -> Tensor:
        indices = torch.arange(self.dimension)
        try:
            place: Any = self.parameters[on] if isinstance(on, str) else slice(None) if on is None else on
            if not isinstance(place, int | slice):
                place = torch.as_tensor(place, device="cpu")
                if place.is_floating_point() and place.numel() > 0:
                    raise TypeError("indices are whole numbers")  # PyTorch would round these down
                place = place if place.numel() > 0 else place.long()
            chosen = indices[place]
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError):
            names = ", ".join(self.parameters)
            raise ValueError(
                f"{name}: on must be one of {names}, or indices of a position of {self.dimension} numbers, got {on!r}"
            ) from None
        chosen = chosen.reshape(-1)
        if len(chosen.unique()) < len(chosen):
            raise ValueError(f"{name}: on must be different numbers of the position, got {on!r}, one of them twice")
        return chosen

    def _check(self, position: Tensor) -> None:
        if position.dim() != 2 or position.shape[1] != self.dimension:
            shape = tuple(position.shape)
            raise ValueError(f"{type(self).__name__}: positions must have the shape (C, {self.dimension}), got {shape}")
        if position.dtype is not self.dtype:
            raise TypeError(f"{type(self).__name__}: positions must be {self.dtype}, got {position.dtype}")
        if position.device != self.device:
            raise ValueError(f"{type(self).__name__}: positions must be on {self.device}, got {position.device}")

    def _runs_kernel(self, position: Tensor) -> bool:
        """Whether the native kernel takes the call: on a CPU, of a plain tensor that nothing watches."""
        return (
            position.is_cpu and not torch.compiler.is_compiling() and MODULES.cpu.route(position) is not NotImplemented
        )

    @abstractmethod
    def _native(self, *state_and_steps: Any) -> Any:
        """Call the native function with its last six arguments: position, momentum, gradient, step_size, and so on."""

    @abstractmethod
    def _by_products(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The same by PyTorch's matrix products, on any device."""

    def _add_priors(self, position: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Add priors and the constant to the log density, and to the gradient."""
        for kind, places, (location, rate, weight, slope) in self._prior_groups:
            found, by_position = _prior_terms(kind, position[:, places], location, rate, weight, slope)
            value = value + found.sum(-1)
            gradient = gradient.index_add(1, places, by_position)
        return value + self._constant, gradient


def _prior_terms(
    kind: int, q: Tensor, location: Tensor, rate: Tensor, weight: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """The terms of csrc/cpu/chains.h and their derivatives, each (C, terms)."""
    if kind == SQUARE:
        distance = q - location
        return -weight * distance.square(), -2.0 * weight * distance
    if kind == MAGNITUDE:
        distance = q - location
        sign = torch.where(distance.isnan(), distance, distance.sign())
        return -weight * distance.abs(), -weight * sign
    if kind == HEAVY_TAIL:
        x = rate * (q - location)
        size = x.abs()
        is_far = size > 1.0
        r = torch.where(is_far, 1.0 / size, size)
        square = r.square()
        logarithm = square.log1p() + torch.where(is_far, 2.0 * size.log(), 0.0)
        return -weight * logarithm, -2.0 * weight * rate * torch.copysign(r / (1.0 + square), x)
    inner = rate * q + location
    if kind == EXPONENTIAL:
        found = weight * inner.exp()
        return slope * q - found, slope - rate * found
    log_of_none = torch.nn.functional.logsigmoid(-inner)
    return slope * q + weight * log_of_none, slope - weight * rate * inner.sigmoid()


class SumTarget:
    """The sum of a native target and other log densities: its trajectories are steps in Python.

    Attributes
    ----------
    native
        The native part, to which priors are added.
    others
        Targets of the rest.
    """

    is_target: ClassVar[bool] = True

    def __init__(self, native: NativeTarget, *others: Target) -> None:
        self.native, self.others = native, others
        self.dimension, self.parameters = native.dimension, native.parameters

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density ``(C,)`` and its gradient ``(C, D)`` at positions ``(C, D)``."""
        value, gradient = self.native(position)
        for other in self.others:
            more, by_position = other(position)
            value, gradient = value + more, gradient + by_position
        return value, gradient

    def __add__(self, other: Prior | Callable[[Tensor], Any]) -> Any:
        if isinstance(other, Prior):
            return SumTarget(self.native + other, *self.others)
        return SumTarget(self.native, *self.others, as_target(other)) if callable(other) else NotImplemented

    def __radd__(self, other: Prior | Callable[[Tensor], Any]) -> Any:
        return self + other
