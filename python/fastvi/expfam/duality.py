"""Convex conjugates: f*(y) = sup over x of <x, y> - f(x), and the gap between A and A*.

Rockafellar 1970, "Convex analysis", section 26; Wainwright and Jordan 2008, section 3.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvi.expfam._checks import check_broadcast, check_floating, check_vector
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.formulas import not_below_zero
from fastvi.expfam.newton import NotConvergedError, maximise, solve

Function = Callable[[Tensor], Tensor]


def legendre(f: Function, start: Tensor | None = None) -> Function:
    """Return the convex conjugate of a strictly convex function.

    Parameters
    ----------
    f
        Maps (..., n) to (...), each row for itself, twice differentiable by autograd; infinite or NaN where it is not
        defined. A conjugate that this function made is one, too.
    start
        A place inside the domain of ``f``, (n,) or the shape of y. None: zero.

    Returns
    -------
    f*, which maps y, (..., n), to sup over x of <x, y> - f(x), (...), found by Newton's method in float64. It is
    differentiable as often as ``f`` is, less one; its gradient is the place of the supremum. It raises
    :class:`NotConvergedError`, a ValueError, where there is no such place up to rounding: the supremum is infinite, or
    is approached only at the end of the domain.

    Raises
    ------
    TypeError
        If ``f`` cannot be called, or ``start`` is no tensor of float32 or float64.

    Examples
    --------
    >>> import torch
    >>> conjugate = legendre(lambda x: x.exp().sum(-1))  # y log y - y
    >>> y = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    >>> value = conjugate(y)
    >>> torch.allclose(value, (y * y.log() - y).sum())
    True
    >>> torch.autograd.grad(value, y)[0]  # log y
    tensor([0.6931, 1.0986], dtype=torch.float64)
    """
    if not callable(f):
        raise TypeError(f"legendre: f must be a function of a tensor, got {type(f).__name__}")
    if start is not None:
        check_floating("legendre", "start", start)

    def conjugate(y: Tensor) -> Tensor:
        check_floating("legendre", "y", y)
        if y.dim() == 0:
            raise ValueError("legendre: y must have an axis, that of the vector, got a scalar")
        place: Tensor = _Place.apply(y, f, start)  # type: ignore[no-untyped-call, unused-ignore]
        return (place * y).sum(-1) - f(place)

    return conjugate


class _Place(torch.autograd.Function):
    """Where <x, y> - f(x) is largest; its derivative in y is the inverse of f's Hessian there."""

    @staticmethod
    def forward(y: Tensor, f: Function, start: Tensor | None) -> Tensor:
        flat = y.detach().double().reshape(-1, y.shape[-1])
        begin = torch.zeros_like(flat)
        if start is not None:
            begin = start.detach().to(flat).broadcast_to(y.shape).reshape(flat.shape).clone()

        def value(x: Tensor) -> Tensor:
            with torch.no_grad():
                found = (x * flat).sum(-1) - _or_infinite(f, x)
                return torch.where(found.isnan(), -torch.inf, found)

        def step_and_size(x: Tensor) -> tuple[Tensor, Tensor]:
            gradient, hessian = derivatives(f, x, keep=False)
            step = solve(hessian, flat - gradient)
            return step, (step.abs() / x.abs().clamp_min(1e-3)).amax(-1)

        if not bool(torch.isfinite(value(begin)).all()):
            raise ValueError("legendre: f must be finite at start, the place to begin with")
        place, found = maximise(value, step_and_size, begin)
        if not bool(found.all()):
            shown = ", ".join(f"{number:.6g}" for number in flat[~found][0][:8].tolist())
            raise NotConvergedError(
                f"legendre: no maximum of <x, y> - f(x) is found for y = ({shown}): the supremum is infinite or "
                "approached at the end of the domain, or f is not strictly convex"
            )
        return place.reshape(y.shape).to(y.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Function, Any], output: Tensor) -> None:
        ctx.f = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, None, None]:
        _, hessian = derivatives(ctx.f, ctx.saved_tensors[0], keep=True)
        return torch.linalg.solve(hessian, upstreams[0].unsqueeze(-1)).squeeze(-1), None, None


def _or_infinite(f: Function, x: Tensor) -> Tensor:
    """The values of ``f``, infinite where it is itself a supremum that is not found."""
    try:
        return f(x)
    except NotConvergedError:
        if len(x) == 1:
            return torch.full_like(x[:, 0], torch.inf)
        return torch.cat([_or_infinite(f, row) for row in x.split(1)])


def derivatives(f: Function, x: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of ``f`` at each row of ``x``; ``keep``: differentiable in x."""
    with torch.enable_grad():
        place = x if keep and x.requires_grad else x.detach().requires_grad_()
        gradient = _slope(f(place).sum(), place, keep=True)
        rows = [_slope(part.sum(), place, keep) for part in gradient.unbind(-1)]
    hessian = torch.stack(rows, -2)
    return (gradient, hessian) if keep else (gradient.detach(), hessian.detach())


def _slope(value: Tensor, place: Tensor, keep: bool) -> Tensor:
    """The gradient of ``value``, which is 0 where it is a constant for autograd: that of an affine function is one."""
    if not value.requires_grad:
        return torch.zeros_like(place)
    (found,) = torch.autograd.grad(
        value, place, create_graph=keep, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def duality_gap(family: ExponentialFamily, eta: Tensor, mu: Tensor) -> Tensor:
    """Return A(eta) + A*(mu) - <eta, mu> = KL(p_mu || p_eta), which is 0 if and only if mu = grad A(eta), else more.

    Parameters
    ----------
    family
        Of both parameters.
    eta, mu
        Natural and mean parameters, ``batch_shape + (n,)``, whose batches broadcast; the gap is infinite where ``mu``
        is not attainable.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape, or ``eta`` is out of the domain.

    Examples
    --------
    >>> import torch
    >>> from fastvi.expfam import Poisson
    >>> duality_gap(Poisson(), torch.tensor([0.0]), torch.tensor([[1.0], [2.0]]))  # 2 log 2 - 1
    tensor([0.0000, 0.3863])
    """
    if not isinstance(family, ExponentialFamily):
        raise TypeError(f"duality_gap: family must be an ExponentialFamily, got {type(family).__name__}")
    eta = check_vector("duality_gap", "eta", eta, family.num_statistics)
    mu = check_vector("duality_gap", "mu", mu, family.num_statistics)
    check_broadcast("duality_gap", "eta", eta.shape[:-1], "mu", mu.shape[:-1])
    return not_below_zero(family.log_partition(eta) + family.conjugate(mu) - (eta * mu).sum(-1))
