"""The latent variables of a model as annealed importance sampling takes them: a start and a log joint for each image.

Gaussian starts are held in their own units, in which they are N(0, I): a step of Hamiltonian dynamics is then a part of
the start's standard deviation, which a change of variables makes no other estimate of log p(x).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution

from fastvi._examples import count_examples, first_tensor
from fastvi.distributions import DiagNormal, seeded
from fastvi.mcmc import Target, with_gradient
from fastvi.mcmc.annealing import draw_start
from fastvi.models import HamiltonianPosterior
from fastvi.objectives.joint import log_joint_target
from fastvi.objectives.latent import GaussianPosterior, GaussianPrior, OtherPosterior, posterior_of, prior_of
from fastvi.objectives.model import check_nats, member, optional
from fastvi.seeding import mix_seed

OWNER = "annealed importance sampling"
STARTS = ("auto", "prior", "encoder")


@dataclass(frozen=True, eq=False)
class Latents:
    """Latent variables of B images.

    Attributes
    ----------
    start
        A distribution with the batch (B,) and the event (Z,), in its own units where it is Gaussian.
    log_joint
        Of z (K, B, Z): log p(x, z) and its gradient.
    name
        ``"prior"`` or ``"encoder"``: what the start is.
    mean, scale
        (B, Z) each, of the start's units: z = mean + scale u; None where these are z itself.
    """

    start: Distribution
    log_joint: Target
    name: str
    mean: Tensor | None = None
    scale: Tensor | None = None

    def values(self, units: Tensor) -> Tensor:
        """Return z, (..., B, Z), of the start's units."""
        return units if self.mean is None or self.scale is None else torch.addcmul(self.mean, self.scale, units)

    def units(self, z: Tensor) -> Tensor:
        """Return z in the start's units, (..., B, Z)."""
        return z if self.mean is None or self.scale is None else (z - self.mean) / self.scale

    def target(self) -> Target:
        """Return the log joint density of the start's units and its gradient, for positions (B C, Z)."""
        return _TargetOfUnits(self)


class _TargetOfUnits:
    """See `Latents.target`."""

    is_target = True

    def __init__(self, latents: Latents) -> None:
        self._latents = latents
        self._volume = 0.0 if latents.scale is None else latents.scale.log().sum(-1)

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        latents = self._latents
        count, dim = latents.start.batch_shape[0], latents.start.event_shape[0]
        units = position.view(count, -1, dim).transpose(0, 1).contiguous()
        with torch.no_grad():
            value, gradient = latents.log_joint(latents.values(units))
            gradient = gradient if latents.scale is None else gradient * latents.scale
            return (value + self._volume).transpose(0, 1).reshape(-1), gradient.transpose(0, 1).reshape(-1, dim)


class _LogPrior(Distribution):
    """A model's ``log_prior`` with ``sample(count, seed)``, once for each of B images."""

    arg_constraints = {}  # noqa: RUF012  # as PyTorch's classes have it
    has_rsample = True

    def __init__(self, log_prior: Any, count: int, latent_dim: int) -> None:
        self.log_prior = log_prior
        super().__init__(torch.Size((count,)), torch.Size((latent_dim,)), validate_args=False)

    def rsample(self, sample_shape: Any = (), seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Draw (K, B, Z): those of an image by a seed of its own."""
        assert seed is not None
        rows = range(row_offset, row_offset + self.batch_shape[0])
        return torch.stack([self.log_prior.sample(sample_shape[0], mix_seed(seed, row)) for row in rows], 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z)."""
        found: Tensor = self.log_prior(value)
        return found


def latents_of(model: Any, x: Any, start: str) -> Latents:
    """Return the latent variables of images, to be annealed from the prior or from the encoder's q(z|x).

    ``"auto"`` is the encoder where q(z|x) is a diagonal Gaussian, else the prior.

    Raises
    ------
    TypeError
        If the model has no continuous latent variables with a prior and a likelihood, or cannot draw from the start.
    ValueError
        If ``start`` is neither word.
    """
    if start not in STARTS:
        raise ValueError(f"{OWNER}: start must be one of {', '.join(STARTS)}, got {start!r}")
    model = model.model if isinstance(model, HamiltonianPosterior) else model
    count, name = count_examples(OWNER, "x", x), type(model).__name__
    if not hasattr(model, "log_likelihood"):
        return _of_noise(model, x, count, start)
    if not hasattr(model, "encode") and (start == "encoder" or not hasattr(model, "latent_dim")):
        raise TypeError(f"{OWNER}: {name} has no encode{'' if start == 'encoder' else ' and no latent_dim'}")
    with torch.no_grad():
        if hasattr(model, "encode"):
            q = posterior_of(model, x)
            if isinstance(q, OtherPosterior) and not q.is_reparameterised:
                raise TypeError(f"{OWNER} needs continuous latent variables: those of {name} cannot be reparameterised")
            shape = tuple(q.shape)
        else:
            q, shape = None, (count, int(model.latent_dim))
        p = prior_of(model, x, q or SimpleNamespace(shape=shape))  # type: ignore[arg-type]  # its shape is looked at
        log_joint = log_joint_target(model, x, p, OWNER)
        if start == "encoder" or (start == "auto" and isinstance(q, GaussianPosterior)):
            if isinstance(q, OtherPosterior):
                return Latents(q.distribution, log_joint, "encoder")
            assert q is not None
            return _of_gaussian(log_joint, "encoder", q.mean, q.logvar)
        if not isinstance(p, GaussianPrior):
            return Latents(_prior_distribution(model, x, shape), log_joint, "prior")
        zeros = _zeros(model, x, shape)
        if p.mean is None and p.logvar is None:
            return Latents(DiagNormal(zeros, zeros), log_joint, "prior")
        mean, logvar = (zeros if each is None else each.expand(shape) for each in (p.mean, p.logvar))
        return _of_gaussian(log_joint, "prior", mean, logvar)


def simulate(model: Any, count: int, like: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images (count, D) from a model with a Bernoulli likelihood, and the latent variables (count, Z) they are of.

    Raises
    ------
    TypeError
        If the model has another likelihood, no ``decode``, or labels.
    """
    inner = model.model if isinstance(model, HamiltonianPosterior) else model
    likelihood = getattr(getattr(inner, "bottom", inner), "likelihood", None)
    if likelihood != "bernoulli" or not hasattr(inner, "decode") or not isinstance(like, Tensor):
        raise TypeError(
            f"{OWNER}: images are simulated for models with a Bernoulli likelihood, a decode and no labels; "
            f"{type(model).__name__} is another"
        )
    latents = latents_of(model, like[:1].expand(count, *like.shape[1:]), "prior")
    with torch.no_grad():
        z = latents.values(draw_start(latents.start, 1, mix_seed(seed, 0), 0))
        probability = inner.decode(z)
        return seeded.sample(Bernoulli(probability, validate_args=False), 1, mix_seed(seed, 1), 0)[0], z


def _of_gaussian(log_joint: Target, name: str, mean: Tensor, logvar: Tensor) -> Latents:
    zeros = torch.zeros_like(mean)
    return Latents(DiagNormal(zeros, zeros), log_joint, name, mean, torch.exp(0.5 * logvar))


def _of_noise(model: Any, x: Any, count: int, start: str) -> Latents:
    """Of a model that makes all of its layers of standard normal numbers."""
    name = type(model).__name__
    if not hasattr(model, "log_likelihood_of_noise"):
        raise TypeError(
            f"{OWNER} needs a model of continuous latent variables with a prior and log_likelihood(x, z); "
            f"{name} has no log_likelihood"
        )
    if start == "encoder":
        raise TypeError(f"{OWNER}: {name} has several layers, which start from the prior alone")
    zeros = _zeros(model, x, (count, model.latent_dim))
    method = member(model, "log_likelihood_of_noise")
    by_autograd = with_gradient(lambda z: check_nats(method, model.log_likelihood_of_noise(x, z), z), method)
    normal = DiagNormal(zeros, zeros)

    def log_joint(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = by_autograd(z)
        return value + normal.log_prob(z), gradient - z

    return Latents(normal, log_joint, "prior")


def _zeros(model: Any, x: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of the dtype and on the device of a module's parameters, else of the data."""
    like: Tensor | None = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    like = first_tensor(x) if like is None else like
    assert like is not None
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(shape, dtype=dtype, device=like.device)


def _prior_distribution(model: Any, x: Any, shape: tuple[int, ...]) -> Distribution:
    log_prior = optional(model, "log_prior")
    if log_prior is None:
        found: Distribution = model.conditional_prior(x)
        return found
    if not hasattr(log_prior, "sample"):
        raise TypeError(
            f"{OWNER}: {member(model, 'log_prior')} cannot be drawn from: it has no sample(count, seed); "
            "start from the encoder"
        )
    return _LogPrior(log_prior, *shape)
