"""A model whose posterior is a distribution of any kind, and kinds of posteriors, some of which equal each other."""

from __future__ import annotations

import math
import types

import torch
from torch import nn
from torch.distributions import (
    AffineTransform,
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from fastvi import normal_log_prob, rsample_normal
from fastvi.distributions import DiagNormal, ModuleTransform

B, D, Z = 5, 4, 3


class Leaves:
    """A model whose posterior is made of leaves of its own by a function; it may be that of one row or of every row."""

    def __init__(self, posterior, from_x=False):
        self.from_x = from_x
        generator = torch.Generator().manual_seed(3)

        def leaf(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(0.4).requires_grad_()

        self.mean, self.logvar = leaf(B, Z), leaf(B, Z)
        self.shift, self.below = leaf(B, Z), leaf(Z, Z)
        self.weight = leaf(D, Z)
        self.posterior = posterior
        self.prior_mean, self.prior_logvar = leaf(Z), leaf(1, Z) if from_x else leaf(B, Z)

    def encode(self, x):
        if not self.from_x:
            return self.posterior(self)
        names = ("mean", "logvar", "shift")
        of_x = {name: getattr(self, name)[:1] + x[:, :Z] for name in names}  # any function of x
        return self.posterior(types.SimpleNamespace(**of_x))

    def log_likelihood(self, x, z):
        return normal_log_prob(x, z @ self.weight.T, torch.zeros_like(x))

    def leaves(self):
        return [value for value in vars(self).values() if isinstance(value, torch.Tensor)]


X = torch.linspace(-1.0, 1.0, B * D, dtype=torch.float64).reshape(B, D)


def outcome(objective, model, **options):
    value = objective(model, X, seed=11, **options)
    return value.detach(), torch.autograd.grad(value.sum(), model.leaves(), allow_unused=True, materialize_grads=True)


class Triangular(nn.Module):
    """y = A x with ones on the diagonal of A and twice on it: an invertible module of a user."""

    def __init__(self, below):
        super().__init__()
        self.below = below

    def matrix(self):
        return torch.tril(self.below, -1) + 2.0 * torch.eye(Z, dtype=torch.float64)

    def forward(self, x):
        return x @ self.matrix().T, x.new_full(x.shape[:1], Z * math.log(2.0))

    def inverse(self, y):
        x = torch.linalg.solve_triangular(self.matrix(), y.T, upper=False).T
        return x, y.new_full(y.shape[:1], -Z * math.log(2.0))


def base(m):
    return DiagNormal(m.mean, m.logvar, False)


def normal(m):
    return Independent(Normal(m.mean, torch.exp(0.5 * m.logvar), validate_args=False), 1, validate_args=False)


def flow(base_distribution, *transforms):
    return TransformedDistribution(base_distribution, list(transforms), validate_args=False)


def affine_pair(m):
    return m.shift + torch.exp(m.logvar) * m.mean, 3.0 * m.logvar


def affine_flow(m):
    return flow(normal(m), AffineTransform(m.shift, torch.exp(m.logvar), event_dim=1))


def linear(m):
    matrix = Triangular(m.below).matrix()
    return MultivariateNormal(m.mean @ matrix.T, scale_tril=matrix * torch.exp(0.5 * m.logvar).unsqueeze(-2))


def scalar_flow(m):
    scalar = Normal(m.mean, torch.exp(0.5 * m.logvar), validate_args=False)
    return Independent(flow(scalar, AffineTransform(m.shift, torch.exp(m.logvar))), 1, validate_args=False)


def diagonal_tril(m):
    return MultivariateNormal(m.mean, scale_tril=torch.diag_embed(torch.exp(0.5 * m.logvar)), validate_args=False)


EQUAL = {
    "diag-normal": (lambda m: (m.mean, m.logvar), base),
    "independent": (lambda m: (m.mean, m.logvar), normal),
    "full": (lambda m: (m.mean, m.logvar), diagonal_tril),
    "affine-flow": (affine_pair, affine_flow),
    "scalar-flow": (affine_pair, scalar_flow),
    "two-flows": (affine_pair, lambda m: flow(affine_flow(m), AffineTransform(1.0, 2.0), AffineTransform(-0.5, 0.5))),
    "module-flow": (linear, lambda m: flow(base(m), ModuleTransform(Triangular(m.below)))),
}


class Seeded(Distribution):
    """A user's distribution that serves seeds itself."""

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012  # as PyTorch's classes have it

    def __init__(self, mean):
        self.mean_ = mean
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def rsample(self, sample_shape=(), seed=None, row_offset=0):
        return rsample_normal(self.mean_, torch.zeros_like(self.mean_), sample_shape, seed, row_offset)

    def log_prob(self, value):
        return normal_log_prob(value, self.mean_, torch.zeros_like(self.mean_))


def low_rank(m):
    factor = torch.stack([m.shift, m.mean], -1)
    return LowRankMultivariateNormal(m.mean, factor, torch.exp(m.logvar), validate_args=False)


KINDS = {
    "full": diagonal_tril,
    "low-rank": low_rank,
    "laplace": lambda m: Independent(Laplace(m.mean, torch.exp(m.logvar)), 1),
    "uniform": lambda m: Independent(Uniform(m.mean, m.mean + torch.exp(m.logvar)), 1),
    "logistic": lambda m: flow(
        Uniform(torch.zeros_like(m.mean), torch.ones_like(m.mean)),
        SigmoidTransform().inv,
        AffineTransform(m.mean, torch.exp(m.logvar), event_dim=1),
    ),
    "flow": affine_flow,
    "module-flow": EQUAL["module-flow"][1],
    "seeded": lambda m: Seeded(m.mean),
}
