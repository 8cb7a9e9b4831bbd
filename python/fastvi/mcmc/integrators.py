"""Trajectories of the leapfrog integrator (Neal 2011), differentiable in all that they depend on.

The dynamics are those of the Hamiltonian H(q, v) = -log p(q) + v' M^-1 v / 2 with a diagonal M. A trajectory is
reversible and keeps volume, whatever its step size; the Hamiltonian it keeps but for an error of the step's square.
Tempering (Neal 2011, section 5.5.7; Caterini, Doucet and Sejdinovic 2018) multiplies the momentum after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fastvi import ops
from fastvi.ops._private import gradient_of_sum, transforms_active

Target: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A log density and its gradient at positions: (..., D) gives (...) and (..., D)."""


class PhasePoint(NamedTuple):
    """A position and a momentum, with what the next step needs of the log density there.

    Attributes
    ----------
    position, momentum
        ``(..., D)``.
    log_density
        ``(...)``, in nats; it need not be normalised.
    gradient
        ``(..., D)``, that of the log density by the position.
    """

    position: Tensor
    momentum: Tensor
    log_density: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, target: Target, position: Tensor, momentum: Tensor) -> PhasePoint:
        """Return the point of a position and a momentum."""
        return cls(position, momentum, *target(position))


def with_gradient(log_density: Callable[[Tensor], Tensor], name: str = "the log density") -> Target:
    """Make the target of a log density: autograd takes the gradient, and records it where it records at all.

    So the gradient of a trajectory has its second-order terms, those of the log density's second derivatives. Under
    ``torch.no_grad()`` nothing is recorded.

    Parameters
    ----------
    log_density
        Of positions ``(..., D)`` gives ``(...)``, in nats.
    name
        What messages call it.

    Raises
    ------
    ValueError
        From the target, if the log density has another shape, or no gradient by the position.

    Examples
    --------
    >>> import torch
    >>> target = with_gradient(lambda q: -0.5 * q.square().sum(-1))
    >>> target(torch.tensor([[1.0, -2.0]]))
    (tensor([-2.5000], grad_fn=<MulBackward0>), tensor([[-1.,  2.]], grad_fn=<...>))
    """

    def target(position: Tensor) -> tuple[Tensor, Tensor]:
        return _differentiate(log_density, name, position, torch.is_grad_enabled())

    return target


def _differentiate(
    log_density: Callable[[Tensor], Tensor], name: str, position: Tensor, records: bool
) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling() or transforms_active():
        value, pull_back = torch.func.vjp(log_density, position)  # type: ignore[misc, unused-ignore]
        return value, pull_back(torch.ones_like(value))[0]
    with torch.enable_grad():
        start = position if records and position.requires_grad else position.detach().requires_grad_()
        value = log_density(start)
        if value.shape != position.shape[:-1]:
            raise ValueError(
                f"{name} of positions {tuple(position.shape)} must have the shape {tuple(position.shape[:-1])}, "
                f"got {tuple(value.shape)}: a sum is over the last dimension alone"
            )
        gradient = None
        if value.requires_grad:
            if records or type(value) is not Tensor:
                (gradient,) = torch.autograd.grad(value.sum(), start, create_graph=records, allow_unused=True)
            else:
                gradient = gradient_of_sum(value, start)
        if gradient is None:
            raise ValueError(
                f"{name} has no gradient by the position: it must be a differentiable function of it, which "
                f"NumPy, .detach(), .item() and torch.no_grad() in it undo, and torch.inference_mode() around it"
            )
    return (value if records else value.detach()), gradient


@dataclass(frozen=True, eq=False)
class DifferentiableTarget:
    """The target of a log density: see :func:`as_target`."""

    log_density: Callable[[Tensor], Tensor]
    is_target: ClassVar[bool] = True

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density ``(C,)`` and its gradient ``(C, D)`` at positions ``(C, D)``, without history."""
        return _differentiate(self.log_density, "the log density", position, records=False)


def as_target(log_density: Callable[[Tensor], Any]) -> Target:
    """Make the target of a log density, positions (C, D) to (C,): autograd takes its gradient and keeps no history.

    What is a target already, as its attribute ``is_target`` says, is returned as it is.

    Examples
    --------
    >>> import torch
    >>> target = as_target(lambda q: -0.5 * q.square().sum(-1))
    >>> target(torch.tensor([[1.0, -2.0]]))
    (tensor([-2.5000]), tensor([[-1.,  2.]]))
    >>> as_target(target) is target
    True
    """
    return log_density if getattr(log_density, "is_target", False) else DifferentiableTarget(log_density)


def leapfrog(
    target: Target,
    start: PhasePoint,
    step_size: Tensor | float,
    num_steps: int,
    inverse_mass: Tensor | float | None = None,
    momentum_scales: Tensor | None = None,
) -> PhasePoint:
    r"""Follow a trajectory of leapfrog steps, each a half kick, a drift and a half kick.

    .. math:: v \leftarrow v + \tfrac\epsilon2 \nabla \log p(q), \quad q \leftarrow q + \epsilon M^{-1} v, \quad
        v \leftarrow v + \tfrac\epsilon2 \nabla \log p(q)

    The gradient is taken once at each new position. Differentiable in the start, the step size, the inverse mass, the
    scales, and all that the target depends on. To go back, follow a trajectory from the end with its momentum negated.

    Parameters
    ----------
    target
        What gives the log density and its gradient.
    start
        Where the trajectory begins.
    step_size
        :math:`\epsilon`: a number, or a tensor that broadcasts with positions: (D,) for one for each dimension.
    num_steps
        L, the number of leapfrog steps.
    inverse_mass
        Diagonal of :math:`M^{-1}`, broadcast likewise; the identity where not given.
    momentum_scales
        Shape (L,): what the momentum is multiplied by after each step. The logarithm of the trajectory's volume is D
        times the sum of their logarithms; without them it is 0.

    Returns
    -------
    PhasePoint
        The end of the trajectory.

    Raises
    ------
    ValueError
        If ``num_steps`` is not positive, or the scales are not as many.

    References
    ----------
    Neal: MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, 2011, sections 2.3 and 5.5.7.

    Examples
    --------
    >>> import torch
    >>> target = with_gradient(lambda q: -0.5 * q.square().sum(-1))
    >>> start = PhasePoint.at(target, torch.tensor([1.0]), torch.tensor([0.0]))
    >>> end = leapfrog(target, start, step_size=0.1, num_steps=10)
    >>> end.position.item()  # about cos(1)
    0.539...
    """
    if num_steps < 1:
        raise ValueError(f"leapfrog: num_steps must be positive, got {num_steps}")
    if momentum_scales is not None and momentum_scales.shape != (num_steps,):
        raise ValueError(
            f"leapfrog: momentum_scales must have the shape ({num_steps},), one for each step, "
            f"got {tuple(momentum_scales.shape)}"
        )
    position, momentum, log_density, gradient = start
    for i in range(num_steps):
        # The potential energy is minus the log density, whose gradient is at hand: the kick has the sign. Where nothing
        # comes between two steps, two half kicks at the same position are a whole one.
        kick = -0.5 if i == 0 or momentum_scales is not None else -1.0
        position, momentum = ops.leapfrog_step(position, momentum, gradient, step_size, inverse_mass, kick)
        log_density, gradient = target(position)
        if momentum_scales is not None:
            momentum = momentum_scales[i] * _half_kick(momentum, gradient, step_size)
    if momentum_scales is None:
        momentum = _half_kick(momentum, gradient, step_size)
    return PhasePoint(position, momentum, log_density, gradient)


def hamiltonian(point: PhasePoint, inverse_mass: Tensor | float | None = None) -> Tensor:
    r"""Return the Hamiltonian, :math:`-\log p(q) + \tfrac12 v^\top M^{-1} v`, (...): potential and kinetic energy.

    Examples
    --------
    >>> import torch
    >>> target = with_gradient(lambda q: -0.5 * q.square().sum(-1))
    >>> hamiltonian(PhasePoint.at(target, torch.tensor([1.0]), torch.tensor([2.0]))).item()
    2.5
    """
    return ops.kinetic_energy(point.momentum, inverse_mass) - point.log_density


def _half_kick(momentum: Tensor, gradient: Tensor, step_size: Tensor | float) -> Tensor:
    if isinstance(step_size, Tensor):
        return torch.addcmul(momentum, gradient, step_size, value=0.5)
    return torch.add(momentum, gradient, alpha=0.5 * step_size)


@dataclass(frozen=True)
class Scheme:
    """A palindrome of kicks and drifts, as parts of the step size: kick, drift, kick, ..., drift, kick."""

    kicks: tuple[float, ...]
    drifts: tuple[float, ...]

    @property
    def num_stages(self) -> int:
        """Gradients that a step takes."""
        return len(self.drifts)


_TWO_STAGES = 0.1931833275037836
_KICK, _DRIFT = 0.11888010966548, 0.29619504261126
INTEGRATORS = {
    "leapfrog": Scheme((0.5, 0.5), (1.0,)),
    "minimal-norm-2": Scheme((_TWO_STAGES, 1.0 - 2.0 * _TWO_STAGES, _TWO_STAGES), (0.5, 0.5)),
    "minimal-norm-3": Scheme((_KICK, 0.5 - _KICK, 0.5 - _KICK, _KICK), (_DRIFT, 1.0 - 2.0 * _DRIFT, _DRIFT)),
}
"""The integrators of :func:`integrate`, by name."""


def integrate(
    target: Target,
    start: PhasePoint,
    step_size: Tensor | float,
    num_steps: int,
    inverse_mass: Tensor | None = None,
    integrator: str = "leapfrog",
) -> PhasePoint:
    """Follow trajectories of many chains, without autograd history.

    All integrators are reversible, keep volume, and are of second order. Those of two and three stages take as many
    gradients in each step; at the same number of gradients their energy errors are far smaller where the density is
    near a Gaussian and acceptance is high, and may be larger where steps are as long as the density is narrow.

    Parameters
    ----------
    target
        What gives the log density and its gradient. Where it has a method ``trajectory``, that is given whole
        trajectories of leapfrog steps with a diagonal mass: ``trajectory(start, step_size, num_steps, inverse_mass)``,
        in which the step size is a number, or a tensor ``()`` or ``(C, 1)``; with a dense mass where its attribute
        ``takes_dense_mass`` is true.
    start
        Where the trajectories begin: positions and momenta ``(C, D)``.
    step_size
        A number, or a tensor: ``()``, or ``(C,)`` for one for each chain.
    num_steps
        The number of steps, each of one stage for ``leapfrog``, two or three for the others.
    inverse_mass
        Diagonal ``(D,)`` or dense ``(D, D)``; the identity where not given.
    integrator
        ``leapfrog``, ``minimal-norm-2`` or ``minimal-norm-3``.

    Returns
    -------
    PhasePoint
        The end of the trajectory, its momentum not negated.

    References
    ----------
    McLachlan: On the numerical integration of ordinary differential equations by symmetric composition methods. SIAM
    Journal on Scientific Computing 1995, for two stages. Blanes, Casas, Sanz-Serna: Numerical integrators for the
    hybrid Monte Carlo method. SIAM Journal on Scientific Computing 2014, for three.

    Examples
    --------
    >>> import torch
    >>> target = as_target(lambda q: -0.5 * q.square().sum(-1))
    >>> start = PhasePoint.at(target, torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    >>> leapfrog = integrate(target, start, 0.5, 6)
    >>> three_stages = integrate(target, start, 1.5, 2, integrator="minimal-norm-3")
    >>> [f"{abs(hamiltonian(end) - hamiltonian(start)).item():.0e}" for end in (leapfrog, three_stages)]
    ['4e-04', '5e-05']
    """
    if isinstance(step_size, Tensor) and step_size.dim() == 1:
        step_size = step_size.unsqueeze(-1)
    dense_mass = inverse_mass if inverse_mass is not None and inverse_mass.dim() == 2 else None
    trajectory = getattr(target, "trajectory", None)
    takes_mass = dense_mass is None or getattr(target, "takes_dense_mass", False)
    if integrator == "leapfrog" and takes_mass and trajectory is not None:
        whole: PhasePoint = trajectory(start, step_size, num_steps, inverse_mass)
        return whole
    position, momentum, log_density, gradient = start
    if isinstance(step_size, Tensor) and step_size.dim() == 2:  # spread out once, instead of in each step
        step_size = step_size.expand_as(position).contiguous()
    scheme = INTEGRATORS[integrator]
    steps = [step_size if drift == 1.0 else drift * step_size for drift in scheme.drifts]
    # The gradient is that of the log density, minus that of the potential energy: so the kicks are negative. Between
    # two steps the last kick of one and the first of the next are one.
    kicks = [-kick / drift for kick, drift in zip(scheme.kicks[:-1], scheme.drifts, strict=True)]
    moves = list(zip(steps, kicks, strict=True)) * num_steps
    for later in range(len(steps), len(moves), len(steps)):
        moves[later] = (steps[0], 2.0 * kicks[0])
    if dense_mass is None:
        for step, kick in moves:
            position, momentum = ops.leapfrog_step(position, momentum, gradient, step, inverse_mass, kick)
            log_density, gradient = target(position)
    else:
        for step, kick in moves:
            momentum = ops.momentum_kick(momentum, gradient, step, kick)
            position = _drift(position, momentum @ dense_mass, step)
            log_density, gradient = target(position)
    momentum = ops.momentum_kick(momentum, gradient, step_size, -scheme.kicks[-1])
    return PhasePoint(position, momentum, log_density, gradient)


def _drift(position: Tensor, velocity: Tensor, step: Tensor | float) -> Tensor:
    if isinstance(step, Tensor):
        return torch.addcmul(position, velocity, step)
    return torch.add(position, velocity, alpha=step)
