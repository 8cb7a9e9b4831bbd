"""Hamiltonian variational inference: samples of an encoder, moved by Hamiltonian dynamics (Salimans 2015).

A model whose log joint density is differentiable gets a posterior that the dynamics bring closer to the true one. The
tempered variant without a reverse model is the Hamiltonian VAE (Caterini, Doucet and Sejdinovic 2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count, check_factor, option
from fastvi.mcmc import PhasePoint, Target, leapfrog
from fastvi.models.base import DataShape
from fastvi.models.reverse_network import Arrival, ReverseNetwork
from fastvi.models.vae import VAEOptions
from fastvi.objectives import Draw
from fastvi.objectives.joint import log_joint_target
from fastvi.objectives.latent import (
    GaussianPosterior,
    Posterior,
    Prior,
    prior_of,
    reparameterised_posterior_of,
)
from fastvi.objectives.model import require_encoder
from fastvi.ops._values import values_at_hand
from fastvi.seeding import mix_seed

MASSES = ("unit", "learned", "posterior")
TEMPERINGS = ("none", "quadratic", "free")
MOMENTUM_STREAM = 1
"""The seed of transition t's momenta is ``mix_seed(seed, MOMENTUM_STREAM, t)``."""
_OWNER = "HamiltonianPosterior"


class HamiltonianPosterior(nn.Module):
    r"""A model with the posterior of Hamiltonian variational inference in place of its encoder's.

    A sample z_0 of the encoder's q(z|x) goes through T transitions: a momentum :math:`v_t \sim N(0, M)`, then L
    leapfrog steps to :math:`(z_t, v'_t)`. Its log-weight is

    .. math:: \log p(x, z_T) - \log q(z_0|x) + \sum_t \log r(v'_t|x, z_t) - \log q(v_t),

    the mean of which is the bound L_aux. The mean of the weights is p(x) for any number of samples, so that ``ELBO``
    with ``analytic_kl=False``, ``STL``, ``IWAE`` and ``fastvi.evaluate`` take it. Parameters of the trajectory learn
    with the model's; second-order terms are kept.

    The momentum is held in units of its standard deviation, in which q(v) is N(0, I): a mass M acts by the steps
    :math:`\epsilon M^{-1/2}`, and :math:`r` is the density of :math:`M^{-1/2} v`.

    Parameters
    ----------
    model
        ``encode``, ``log_likelihood`` and a prior in any form, see :class:`fastvi.objectives.LatentVariableModel`; the
        posterior has to be one that can be reparameterised, the likelihood and the prior differentiable in z twice.
    latent_dim
        Z.
    num_transitions, num_leapfrogs
        T and L.
    step_size, max_step_size
        What the step sizes start at, and their bound; each transition has its own.
    step_per_dimension
        Whether each dimension has a step size of its own.
    mass
        ``"unit"``; ``"learned"``, a mass for each dimension; ``"posterior"``, the encoder's precision of each example
        and dimension, so that a step is a part of the standard deviation. The posterior must know its variance then.
    tempering
        ``"none"``; ``"quadratic"`` with a learned beta_0, or ``"free"`` with learned factors between 0 and 1: the
        momentum is drawn with the variance 1 / beta_0 and multiplied down to that of 1 along the trajectory.
    inverse_temperature
        What beta_0 starts at.
    reverse
        A module that of an :class:`Arrival` gives the mean and log-variance of r, each ``(K, B, Z)``; a list of T, one
        for each transition; None for the fixed r = N(0, I), with which only tempering makes the bound tighter.

    Raises
    ------
    ValueError, TypeError
        If an option is out of its range or of a wrong type, or the model lacks a method.
    FloatingPointError
        From ``draw`` on a CPU, if a trajectory becomes infinite or NaN.

    References
    ----------
    Salimans, Kingma & Welling 2015, "Markov chain Monte Carlo and variational inference: bridging the gap", section 3;
    Caterini, Doucet & Sejdinovic 2018, "Hamiltonian variational auto-encoder", section 3.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> from fastvi.objectives import IWAE
    >>> model = HamiltonianPosterior(VAE(64, 2, (32,)), 2, reverse=ReverseNetwork(2, 16))
    >>> IWAE(5)(model, torch.ones(3, 64)).shape
    torch.Size([3])
    """

    draws_score = False
    """All samples are reparameterised."""

    def __init__(
        self,
        model: Any,
        latent_dim: int,
        num_transitions: int = 1,
        num_leapfrogs: int = 4,
        step_size: float = 0.1,
        max_step_size: float = 0.5,
        step_per_dimension: bool = True,
        mass: str = "posterior",
        tempering: str = "none",
        inverse_temperature: float = 0.5,
        reverse: nn.Module | Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        require_encoder(model, _OWNER)
        self.latent_dim = check_count(_OWNER, "latent_dim", latent_dim)
        self.num_transitions = check_count(_OWNER, "num_transitions", num_transitions)
        self.num_leapfrogs = check_count(_OWNER, "num_leapfrogs", num_leapfrogs)
        check_trajectory(_OWNER, step_size, max_step_size, inverse_temperature)
        for name, value, known in (("mass", mass, MASSES), ("tempering", tempering, TEMPERINGS)):
            if value not in known:
                raise ValueError(f"{_OWNER}: {name} must be one of {', '.join(known)}, got {value!r}")
        self.model = model
        self.max_step_size, self.mass, self.tempering = max_step_size, mass, tempering
        transitions = self.num_transitions
        columns = self.latent_dim if step_per_dimension else 1
        self.step_logits = nn.Parameter(torch.full((transitions, columns), _logit(step_size / max_step_size)))
        self.log_mass = nn.Parameter(torch.zeros(self.latent_dim)) if mass == "learned" else None
        # The root of beta_0, or the L factors whose product it is.
        factors = {"none": 0, "quadratic": 1, "free": self.num_leapfrogs}[tempering]
        self.tempering_logits = None
        if factors:
            start = _logit(inverse_temperature ** (0.5 / factors))
            self.tempering_logits = nn.Parameter(torch.full((transitions, factors), start))
        self.reverse = None if reverse is None else _reverse_models(reverse, transitions)

    @property
    def step_sizes(self) -> Tensor:
        """The step sizes of each transition, (T, 1) or (T, Z)."""
        return self.max_step_size * torch.sigmoid(self.step_logits)

    def momentum_scales(self, transition: int) -> Tensor | None:
        """What the momentum is multiplied by after each leapfrog, (L,); their product is the root of beta_0."""
        if self.tempering_logits is None:
            return None
        factors = torch.sigmoid(self.tempering_logits[transition])
        if self.tempering == "free":
            return factors
        steps = torch.arange(self.num_leapfrogs + 1, dtype=factors.dtype, device=factors.device)
        # The root of the temperature, 1 / sqrt(beta_l): from that of beta_0 down to 1 as the square of l.
        hotter = 1.0 / factors
        roots = (1.0 - hotter) * (steps / self.num_leapfrogs).square() + hotter
        return roots[1:] / roots[:-1]

    def draw(
        self,
        x: Any,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
    ) -> Draw:
        """Draw z_T with its log-weight; the arguments are those of :func:`fastvi.objectives.draw`."""
        # In inference mode autograd could not take the gradient of the log density.
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                x = copy.deepcopy(x)  # what inference mode has made is nothing that autograd may keep
                return self._drawn(x, num_samples, detach_posterior, seed, row_offset)
        return self._drawn(x, num_samples, detach_posterior, seed, row_offset)

    def _drawn(self, x: Any, num_samples: int, detach_posterior: bool, seed: int | None, row_offset: int) -> Draw:
        q = reparameterised_posterior_of(self.model, x, _OWNER)
        if q.shape[-1] != self.latent_dim:
            raise ValueError(
                f"{_OWNER}: latent_dim is {self.latent_dim}, but {type(self.model).__name__}.encode gives "
                f"{q.shape[-1]} latent variables"
            )
        target = self._target(x, prior_of(self.model, x, q))
        if detach_posterior:
            z = q.rsample(num_samples, seed, row_offset)
            log_posterior = q.log_prob_along_path(z)
        else:
            z, log_posterior = q.rsample_with_log_prob(num_samples, seed, row_offset)
        log_weights = -log_posterior
        steps, zeros = self.step_sizes, z.new_zeros(q.shape)
        mean, logvar = self._moments(q, zeros)
        point = PhasePoint.at(target, z, zeros)
        for t in range(self.num_transitions):
            own_seed = None if seed is None else mix_seed(seed, MOMENTUM_STREAM, t)
            noise = ops.rsample_normal(zeros, zeros, (num_samples,), own_seed, row_offset)
            scales = self.momentum_scales(t)
            momentum = noise if scales is None else noise / scales.prod()
            start = point._replace(momentum=momentum)
            point = leapfrog(target, start, self._scaled(steps[t], logvar), self.num_leapfrogs, None, scales)
            if values_at_hand(point.position):
                self._check_finite(t, start, point)
            # With tempering, v_t has the density of the noise times beta_0^(Z/2), and the trajectory's volume changes
            # by just this factor: what is left of log q is the density of the noise.
            arrival = Arrival(x, point.position, point.gradient, mean, logvar)
            log_weights = log_weights + self._log_reverse(t, arrival, point.momentum) + ops.kinetic_energy(noise)
        return Draw(point.position, log_weights + point.log_density)

    def _moments(self, q: Posterior, zeros: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log-variance, in whose units masses and reverse models are; zeros where unknown."""
        if isinstance(q, GaussianPosterior):
            return q.mean, q.logvar
        try:
            return q.mean, torch.log(q.distribution.variance)
        except NotImplementedError as error:
            if self.mass == "posterior":
                raise TypeError(
                    f"{_OWNER}: mass='posterior' needs a posterior that knows its mean and variance, and the "
                    f"{type(q.distribution).__name__} of {q.place} does not: take mass='unit' or mass='learned'"
                ) from error
            return zeros, zeros

    def _scaled(self, step_size: Tensor, logvar: Tensor) -> Tensor:
        """The steps of momenta in units of their standard deviation: (Z,), or (B, Z) with the encoder's precisions."""
        if self.log_mass is not None:
            return step_size * torch.exp(-0.5 * self.log_mass)
        return step_size * torch.exp(0.5 * logvar) if self.mass == "posterior" else step_size

    def _log_reverse(self, transition: int, arrival: Arrival, momentum: Tensor) -> Tensor:
        """Log r of the momentum, without the constant that the density of the noise has, too."""
        if self.reverse is None:
            return -ops.kinetic_energy(momentum)
        mean, logvar = self.reverse[transition](arrival)
        for name, each in (("mean", mean), ("logvar", logvar)):
            if each.shape != momentum.shape:
                raise ValueError(
                    f"{_OWNER}: the reverse model must give mean and logvar of the shape (num_samples, batch, latent "
                    f"variables) = {tuple(momentum.shape)}, got {name} of shape {tuple(each.shape)}"
                )
        return ops.normal_log_prob(momentum, mean, logvar) + 0.5 * self.latent_dim * math.log(2.0 * math.pi)

    def _target(self, x: Any, prior: Prior) -> Target:
        return log_joint_target(self.model, x, prior, _OWNER)

    def _check_finite(self, transition: int, start: PhasePoint, end: PhasePoint) -> None:
        if bool(end.position.detach().isfinite().all()) and bool(end.log_density.detach().isfinite().all()):
            return
        if transition == 0 and not bool(start.gradient.isfinite().all()):
            what = "the log density's gradient at the encoder's samples is"
            raise FloatingPointError(f"{_OWNER}: {what} infinite or NaN, before any trajectory")
        largest = float(self.step_sizes[transition].detach().max())
        raise FloatingPointError(
            f"{_OWNER}: a trajectory became infinite or NaN in transition {transition + 1} of {self.num_transitions}: "
            f"its step sizes, up to {largest:.3g}, are too large; max_step_size bounds them"
        )

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), as the model's own ``decode`` does."""
        found: Tensor = self.model.decode(z)
        return found

    def reconstruct(self, x: Any) -> Tensor:
        """Return the mean of p(x|z) at one sample z of the posterior, (B, D), the same at each call."""
        drawn = self.draw(x, 1, seed=0).samples
        assert isinstance(drawn, Tensor)
        return self.decode(drawn[0])


def check_trajectory(owner: str, step_size: float, max_step_size: float, inverse_temperature: float) -> None:
    """Raise unless the step sizes' start lies below their bound, and beta_0 between 0 and 1."""
    check_factor(owner, "step_size", step_size)
    check_factor(owner, "max_step_size", max_step_size)
    if not 0.0 < step_size < max_step_size:
        raise ValueError(
            f"{owner}: step_size must be above 0 and below max_step_size = {max_step_size}, got {step_size}"
        )
    check_factor(owner, "inverse_temperature", inverse_temperature)
    if not 0.0 < inverse_temperature < 1.0:
        raise ValueError(f"{owner}: inverse_temperature must be above 0 and below 1, got {inverse_temperature}")


def _reverse_models(reverse: nn.Module | Sequence[nn.Module], transitions: int) -> nn.ModuleList:
    """The reverse model of each transition; one alone serves all of them."""
    if isinstance(reverse, nn.Module) and not isinstance(reverse, nn.ModuleList):
        return nn.ModuleList([reverse] * transitions)
    found = nn.ModuleList(reverse)
    if len(found) != transitions:
        raise ValueError(
            f"{_OWNER}: reverse must be one module, or one for each of {transitions} transitions, got {len(found)}"
        )
    return found


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


@dataclass(frozen=True)
class HamiltonianOptions(VAEOptions):
    """Options of a :class:`HamiltonianPosterior` of a :class:`fastvi.models.VAE`, without the shape of the data.

    Attributes
    ----------
    num_transitions, num_leapfrogs, step_size, max_step_size, step_per_dimension, mass, tempering, inverse_temperature
        See :class:`HamiltonianPosterior`.
    reverse, reverse_dim
        Whether there is a :class:`ReverseNetwork` for each transition, and the width of its hidden layer.

    Examples
    --------
    >>> model = HamiltonianOptions(latent_dim=2).build(DataShape((8, 8)))
    >>> model.step_sizes.shape
    torch.Size([1, 2])
    """

    num_transitions: int = option("T, transitions with a momentum each", 1, at_least=1)
    num_leapfrogs: int = option("L, leapfrog steps of a transition", 4, at_least=1)
    step_size: float = option("step size at the start of training", 0.1)
    max_step_size: float = option("largest step size", 0.5)
    step_per_dimension: bool = option("a step size for each latent dimension", True)
    mass: str = option("of the momenta: unit, learned, or the encoder's precision", "posterior", choices=MASSES)
    tempering: str = option("of the momenta: none, quadratic or free", "none", choices=TEMPERINGS)
    inverse_temperature: float = option("beta_0 of the tempering at the start of training", 0.5)
    reverse: bool = option("a network for the reverse model r(v|x, z), or N(0, I)", True)
    reverse_dim: int = option("width of its hidden layer", 200, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trajectory(type(self).__name__, self.step_size, self.max_step_size, self.inverse_temperature)

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> HamiltonianPosterior:  # type: ignore[override]  # around a VAE
        """Return the untrained model."""
        networks = [
            ReverseNetwork(self.latent_dim, self.reverse_dim) for _ in range(self.num_transitions * self.reverse)
        ]
        return HamiltonianPosterior(
            super().build(shape, data_mean),
            self.latent_dim,
            self.num_transitions,
            self.num_leapfrogs,
            self.step_size,
            self.max_step_size,
            self.step_per_dimension,
            self.mass,
            self.tempering,
            self.inverse_temperature,
            networks or None,
        )
