"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011) for many chains at once, and the metric of its momenta."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastvi import ops
from fastvi.mcmc.integrators import INTEGRATORS, PhasePoint, Target, integrate
from fastvi.mcmc.kernel import ChainState, StepInfo, chain_normals, initial_state
from fastvi.ops._backends import MODULES


class Metric:
    """Momenta N(0, M) of an inverse mass: none for the identity, diagonal ``(D,)``, or dense ``(D, D)``."""

    def __init__(self, inverse_mass: Tensor | None) -> None:
        self.inverse_mass = inverse_mass
        self.is_dense = inverse_mass is not None and inverse_mass.dim() == 2
        self.diagonal: Tensor | None = None
        self._scale: Tensor | None = None
        if inverse_mass is not None and not self.is_dense:
            self.diagonal = inverse_mass.contiguous()
            self._scale = self.diagonal.rsqrt()
        elif inverse_mass is not None:
            # M^-1 = L L', so that M = L^-T L^-1: momenta, as rows, are normals times L^-1.
            factor, failed = torch.linalg.cholesky_ex(inverse_mass)
            if failed.item():
                raise ValueError(
                    "HMC: inverse_mass must be positive definite; it has no Cholesky factor. Where warm-up "
                    "estimated it, positions have no finite variance: is the density proper?"
                )
            identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
            self._scale = torch.linalg.solve_triangular(factor, identity, upper=False)

    def draw(self, seed: int, first_chain: int, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a step of chains at positions ``(C, D)`` draws: momenta ``(C, D)``, and thresholds ``(C,)``.

        A proposal is accepted whose energy error is at most the threshold, which is minus the logarithm of a uniform
        number: half the sum of two squared normals.
        """
        if not self.is_dense and _has_kernels(position):
            drawn: tuple[Tensor, Tensor] = MODULES.cpu.draw_momenta(
                position.contiguous(), seed, first_chain, self._scale
            )
            return drawn
        dimension = position.shape[-1]
        noise = chain_normals(seed, first_chain, dimension + 2, position)
        return self.momentum(noise[:, :dimension]), ops.kinetic_energy(noise[:, dimension:])

    def momentum(self, normal: Tensor) -> Tensor:
        """Return momenta of standard normal noise ``(C, D)``."""
        if self._scale is None:
            return normal.contiguous()
        return normal @ self._scale if self.is_dense else normal * self._scale

    def velocity(self, momentum: Tensor) -> Tensor:
        """Return M^-1 p."""
        if self.inverse_mass is None:
            return momentum
        return momentum @ self.inverse_mass if self.is_dense else momentum * self.inverse_mass

    def kinetic_energy(self, momentum: Tensor) -> Tensor:
        """Return p' M^-1 p / 2, ``(C,)``."""
        if self.is_dense:
            return 0.5 * (momentum * self.velocity(momentum)).sum(-1)
        return ops.kinetic_energy(momentum, self.inverse_mass)


@dataclass(frozen=True, eq=False)
class HMC:
    """Hamiltonian Monte Carlo: all momenta drawn anew, a trajectory, and Metropolis's rule at its end.

    Parameters
    ----------
    target
        Positions ``(C, D)`` to the log density ``(C,)`` and its gradient ``(C, D)``: see :func:`fastvi.mcmc.as_target`.
    step_size
        A number, or a tensor: ``()``, or ``(C,)`` for one for each chain.
    num_steps
        Steps of a trajectory.
    inverse_mass
        Diagonal of the inverse mass ``(D,)``, or the whole of it ``(D, D)``: best an estimate of the density's
        covariance. The identity where not given.
    integrator
        ``leapfrog``, ``minimal-norm-2`` or ``minimal-norm-3``: see :func:`fastvi.mcmc.integrate`.
    divergence_threshold
        Energy error in nats above which a trajectory is divergent.

    Raises
    ------
    ValueError
        If a number or a shape is not as above.

    References
    ----------
    Neal: MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, 2011, section 3.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target, step_seed
    >>> target = as_target(lambda q: -0.5 * q.square().sum(-1))
    >>> kernel = HMC(target, step_size=0.3, num_steps=5)
    >>> state = kernel.init(torch.zeros(64, 3))
    >>> for t in range(10):
    ...     state, info = kernel.step(state, step_seed(1, t))
    >>> state.position.shape, bool(info.acceptance_probability.mean() > 0.9)
    (torch.Size([64, 3]), True)
    """

    target: Target
    step_size: float | Tensor
    num_steps: int
    inverse_mass: Tensor | None = None
    integrator: str = "leapfrog"
    divergence_threshold: float = 1000.0
    metric: Metric | None = field(default=None, repr=False, kw_only=True)
    """Made of ``inverse_mass``; carried over by ``dataclasses.replace`` where that stays the same."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.integrator not in INTEGRATORS:
            raise ValueError(f"{name}: integrator must be one of {', '.join(INTEGRATORS)}, got {self.integrator!r}")
        if self.num_steps < 1:
            raise ValueError(f"{name}: num_steps must be positive, got {self.num_steps}")
        if isinstance(self.step_size, Tensor):
            if self.step_size.dim() > 1:
                shape = tuple(self.step_size.shape)
                raise ValueError(f"{name}: step_size must be a number or have the shape () or (C,), got {shape}")
        elif not self.step_size > 0.0:
            raise ValueError(f"{name}: step_size must be positive, got {self.step_size}")
        mass = self.inverse_mass
        if self.metric is None or self.metric.inverse_mass is not mass:
            if mass is not None and not (mass.dim() == 1 or (mass.dim() == 2 and mass.shape[0] == mass.shape[1])):
                shape = tuple(mass.shape)
                raise ValueError(f"{name}: inverse_mass must have the shape (D,) or (D, D), got {shape}")
            object.__setattr__(self, "metric", Metric(mass))

    def init(self, position: Tensor) -> ChainState:
        """Return the state of chains at positions ``(C, D)``.

        Raises
        ------
        TypeError, ValueError
            If positions or what the target gives have the wrong type, shape or device, or where a chain starts without
            a finite density or gradient.
        """
        state = initial_state(type(self).__name__, self.target, position)
        num_chains, dimension = position.shape
        mass, step_size = self.inverse_mass, self.step_size
        for name, value, shapes in (
            ("inverse_mass", mass, ((dimension,), (dimension, dimension))),
            ("step_size", step_size, ((), (num_chains,))),
        ):
            if not isinstance(value, Tensor):
                continue
            if tuple(value.shape) not in shapes:
                raise ValueError(
                    f"{type(self).__name__}: {name} of {num_chains} chains in {dimension} dimensions must have the "
                    f"shape {shapes[0]} or {shapes[1]}, got {tuple(value.shape)}"
                )
            if value.device != position.device or value.dtype != position.dtype:
                raise ValueError(
                    f"{type(self).__name__}: {name} is {value.dtype} on {value.device}, the positions are "
                    f"{position.dtype} on {position.device}: expected the same"
                )
            if not bool((value if value.dim() < 2 else value.diagonal()).gt(0.0).all()):
                raise ValueError(f"{type(self).__name__}: {name} must be positive")
        return state

    def step(self, state: ChainState, seed: int, first_chain: int = 0) -> tuple[ChainState, StepInfo]:
        """Move all chains once.

        Parameters
        ----------
        state
            Where they are.
        seed
            Of this step, such as :func:`fastvi.mcmc.step_seed` gives.
        first_chain
            Number of the first chain among all that the run has.
        """
        metric = self.metric
        assert metric is not None
        with torch.no_grad():
            momentum, threshold = metric.draw(seed, first_chain, state.position)
            start = PhasePoint(state.position, momentum, state.log_density, state.gradient)
            end = integrate(self.target, start, self.step_size, self.num_steps, self.inverse_mass, self.integrator)
            new_state, probability, energy, error = _choose(metric, start, end, threshold)
            info = StepInfo(
                probability,
                error <= threshold,
                error > self.divergence_threshold,
                energy,
                error,
                self.num_steps * INTEGRATORS[self.integrator].num_stages,
                end,
                momentum,
            )
        return new_state, info


def _has_kernels(position: Tensor) -> bool:
    """Whether the CPU's functions for whole transitions may read it; all else takes operations one by one."""
    return type(position) is Tensor and position.is_cpu and not torch.compiler.is_compiling()


def _choose(
    metric: Metric, start: PhasePoint, end: PhasePoint, threshold: Tensor
) -> tuple[ChainState, Tensor, Tensor, Tensor]:
    """Return the state that each chain goes on from, the probability of acceptance, the energy of it, and its error."""
    if _has_kernels(start.position):
        arguments: list[Tensor | None] = []
        for point in (start, end):
            arguments += [part.contiguous() for part in point]
            arguments.append(metric.kinetic_energy(point.momentum) if metric.is_dense else None)
        chosen = MODULES.cpu.choose_states(*arguments, threshold, metric.diagonal)
        return ChainState(*chosen[:3]), *chosen[3:]
    start_energy = metric.kinetic_energy(start.momentum) - start.log_density
    end_energy = metric.kinetic_energy(end.momentum) - end.log_density
    infinity = float("inf")
    error = torch.nan_to_num(end_energy - start_energy, nan=infinity, posinf=infinity, neginf=infinity)
    is_accepted = error <= threshold
    rows = is_accepted.unsqueeze(-1)
    state = ChainState(
        torch.where(rows, end.position, start.position),
        torch.where(is_accepted, end.log_density, start.log_density),
        torch.where(rows, end.gradient, start.gradient),
    )
    return state, (-error).exp_().clamp_max_(1.0), torch.where(is_accepted, end_energy, start_energy), error
