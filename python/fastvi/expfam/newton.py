"""The map from mean to natural parameters where it has no closed form: Newton's method, differentiated implicitly.

eta(mu) is the maximum of <eta, mu> - A(eta), which is concave: each step solves F(eta) step = mu - grad A(eta), with
the Fisher information F, and is halved while it leads out of the domain or downwards. By the implicit function theorem
d eta / d mu = F(eta)^-1; that product is differentiable in eta, and eta is a function of mu by the same rule, so that
derivatives of every order follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastvi.expfam.formulas import Formulas

_ITERATIONS = 200
_HALVINGS = 60
_SMALL = 1e-9
"""A relative step after which one more would change nothing: its error is of the order of the square."""
_STALLED = 1e-4
"""A step below this that grows no smaller is rounding."""


class NotConvergedError(ValueError):
    """No maximum was found: the mean parameters are, most likely, those of no member of the family."""


def solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return matrix^-1 vector for batches of both; NaN, not an error, where there is no inverse."""
    found, info = torch.linalg.solve_ex(matrix, vector.unsqueeze(-1))
    return torch.where((info == 0)[..., None], found.squeeze(-1), torch.nan)


def maximise(
    value: Callable[[Tensor], Tensor],
    step_and_size: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """Climb a batch of concave functions.

    Parameters
    ----------
    value
        Maps (B, n) to (B,); minus infinity or NaN outside of the domain.
    step_and_size
        The Newton step, (B, n), and its relative size, (B,).
    start
        (B, n), inside of the domain.

    Returns
    -------
    The places (B, n), and (B,) whether each is a maximum.
    """
    place, reached = start, value(start)
    done = torch.zeros(start.shape[:-1], dtype=torch.bool, device=start.device)
    failed = torch.zeros_like(done)
    before = torch.full_like(reached, torch.inf)
    for _ in range(_ITERATIONS):
        step, size = step_and_size(place)
        last = (size <= _SMALL) | ((size <= _STALLED) & (size >= 0.5 * before))
        # A last step too small for the values to tell whether it leads upwards is taken as it is.
        factor = torch.ones_like(reached)
        slack = 1e-13 * (1.0 + reached.abs())
        better = torch.zeros_like(done)
        for _ in range(_HALVINGS):
            candidate = place + factor.unsqueeze(-1) * step
            found = value(candidate)
            better = torch.isfinite(found) & ((found >= reached - slack) | (last & (factor == 1.0)))
            if bool((better | done | failed).all()):
                break
            factor = torch.where(better, factor, 0.5 * factor)
        moved = better & ~done & ~failed
        place = torch.where(moved.unsqueeze(-1), candidate, place)
        reached = torch.where(moved, found, reached)
        failed = failed | (~better & ~done)
        done = done | (last & moved)
        before = size
        if bool((done | failed).all()):
            break
    return place, done


def natural_by_newton(family: Formulas, mu: Tensor) -> Tensor:
    """Return the natural parameters whose mean parameters are ``mu``, (..., n), in float64.

    Raises
    ------
    NotConvergedError
        If there are none.
    """
    flat = mu.reshape(-1, mu.shape[-1])

    def value(eta: Tensor) -> Tensor:
        inside = family._natural_domain(eta)
        safe = torch.where(inside.unsqueeze(-1), eta, start)
        return torch.where(inside, (safe * flat).sum(-1) - family._log_partition(safe), -torch.inf)

    def step_and_size(eta: Tensor) -> tuple[Tensor, Tensor]:
        step = solve(family._fisher(eta), flat - family._mean(eta))
        return step, (step.abs() / eta.abs().clamp_min(1e-3)).amax(-1)

    start = family._newton_start(flat)
    eta, found = maximise(value, step_and_size, start)
    if not bool(found.all()):
        worst = flat[~found][0]
        shown = ", ".join(f"{number:.6g}" for number in worst[:8].tolist())
        raise NotConvergedError(
            f"{type(family).__name__}: no natural parameters have the mean parameters ({shown}), or Newton's method "
            "does not find them: they lie outside of the set of attainable means, on its boundary or very near it"
        )
    return eta.reshape(mu.shape)


class _Natural(torch.autograd.Function):
    @staticmethod
    def forward(mu: Tensor, family: Formulas) -> Tensor:
        with torch.no_grad():
            return family._solve(mu.double()).to(mu.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        ctx.family = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, None]:
        (eta,) = ctx.saved_tensors
        return torch.linalg.solve(ctx.family._fisher(eta), upstreams[0].unsqueeze(-1)).squeeze(-1), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], mu: Tensor, family: Formulas) -> tuple[Tensor, int]:
        batched = mu if in_dims[0] is None else mu.movedim(in_dims[0], 0)
        if in_dims[0] is None:
            batched = mu.expand(info.batch_size, *mu.shape)
        return differentiable_natural(batched, family), 0


def differentiable_natural(mu: Tensor, family: Formulas) -> Tensor:
    """Return ``family._solve(mu)`` with its derivatives."""
    eta: Tensor = _Natural.apply(mu, family)  # type: ignore[no-untyped-call, unused-ignore]
    return eta
