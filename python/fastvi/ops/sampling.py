"""Reparameterised samples of diagonal Gaussians, whose noise is never stored, alone and with their log ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastvi import reference
from fastvi._sizes import check_counters, check_flag
from fastvi.ops._checks import check_shape, check_size
from fastvi.ops._operation import Operation
from fastvi.ops._shapes import broadcast_shape
from fastvi.ops.normal import check_prior, complete_prior
from fastvi.ops.random import Seed, check_seed_value, normal_noise, seed_tensor

_NAMES = ("mean", "logvar", "prior_mean", "prior_logvar")


def _check_draws(operation: str, parameters: Sequence[Tensor | None], samples: int) -> None:
    check_counters(operation, samples, broadcast_shape(operation, _NAMES[: len(parameters)], parameters)[-1])


def _normalise_rsample(
    mean: Tensor, logvar: Tensor, seed: Seed, sample_shape: object, row_offset: object
) -> tuple[Any, ...]:
    samples = check_shape("rsample_normal", "sample_shape", sample_shape)
    offset = check_size("rsample_normal", "row_offset", row_offset)
    return mean, logvar, seed_tensor("rsample_normal", seed, mean.device), samples, offset


def _rsample_formula(
    mean: Tensor, logvar: Tensor, seed: Tensor, sample_shape: Sequence[int], row_offset: int
) -> Tensor:
    shape = broadcast_shape("rsample_normal", ("mean", "logvar"), (mean, logvar))
    return reference.rsample_normal(mean, logvar, normal_noise(seed, sample_shape, shape, row_offset, mean))


def _check_rsample(mean: Tensor, logvar: Tensor, seed: Tensor, sample_shape: Sequence[int], row_offset: int) -> None:
    _check_draws("rsample_normal", (mean, logvar), math.prod(sample_shape))


_RSAMPLE: Operation[Tensor] = Operation(
    name="rsample_normal",
    tensors=("Tensor mean", "Tensor logvar", "Tensor seed"),
    constants=("SymInt[] sample_shape", "SymInt row_offset"),
    formula=_rsample_formula,
    fake=lambda mean, logvar, seed, sample_shape, row_offset: mean.new_empty(
        (*sample_shape, *broadcast_shape("rsample_normal", ("mean", "logvar"), (mean, logvar)))
    ),
    normalise=_normalise_rsample,
    check=_check_rsample,
)


def rsample_normal(
    mean: Tensor,
    logvar: Tensor,
    sample_shape: int | Sequence[int] = (),
    seed: Seed = None,
    row_offset: int = 0,
) -> Tensor:
    """Reparameterised samples ``z = mean + exp(logvar / 2) * eps`` of a diagonal Gaussian.

    eps is never stored: the backward pass draws it again. That of sample k, row b and column d depends on
    ``(seed, k, b + row_offset, d)`` alone, so that a shard of a batch draws what it would have drawn in the whole.

    Parameters
    ----------
    mean, logvar
        Shape (..., D); they broadcast. Rows are counted over the leading axes in C order.
    sample_shape
        Axes of independent samples, put in front; an integer means one axis.
    seed
        An integer in [0, 2^63), an int64 tensor without dimensions, or None: then PyTorch's generator gives one.
    row_offset
        Number of the first row within the whole batch.

    Returns
    -------
    Tensor
        Shape ``sample_shape`` + (..., D).

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not broadcast, devices differ, or a size, seed or offset is negative.

    References
    ----------
    Kingma, Welling: Auto-encoding variational Bayes. ICLR 2014.

    Examples
    --------
    >>> import torch, fastvi
    >>> mean, logvar = torch.zeros(4, 2), torch.zeros(4, 2)
    >>> whole = fastvi.rsample_normal(mean, logvar, (3,), seed=7)
    >>> shard = fastvi.rsample_normal(mean[2:], logvar[2:], (3,), seed=7, row_offset=2)
    >>> torch.equal(whole[:, 2:], shard)
    True
    """
    check_seed_value("rsample_normal", seed)
    return _RSAMPLE(mean, logvar, seed, sample_shape, row_offset)


def _normalise_ratio(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None,
    prior_logvar: Tensor | None,
    seed: Seed,
    num_samples: object,
    detach_posterior: object,
    row_offset: object,
) -> tuple[Any, ...]:
    operation = "rsample_normal_with_log_ratio"
    detach = check_flag(operation, "detach_posterior", detach_posterior)
    samples = check_size(operation, "num_samples", num_samples)
    offset = check_size(operation, "row_offset", row_offset)
    prior = complete_prior(prior_mean, prior_logvar)
    return mean, logvar, *prior, seed_tensor(operation, seed, mean.device), samples, detach, offset


def _ratio_formula(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None,
    prior_logvar: Tensor | None,
    seed: Tensor,
    num_samples: int,
    detach_posterior: bool,
    row_offset: int,
) -> tuple[Tensor, Tensor]:
    shape = broadcast_shape("rsample_normal_with_log_ratio", _NAMES, (mean, logvar, prior_mean, prior_logvar))
    eps = normal_noise(seed, (num_samples,), shape, row_offset, mean)
    return reference.rsample_normal_with_log_ratio(mean, logvar, eps, prior_mean, prior_logvar, detach_posterior)


def _check_ratio(mean: Tensor, *arguments: Any) -> None:
    parameters, num_samples = (mean, *arguments[:3]), arguments[4]
    check_prior("rsample_normal_with_log_ratio", *parameters[2:])
    _check_draws("rsample_normal_with_log_ratio", parameters, num_samples)


def _ratio_fake(mean: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    shape = broadcast_shape("rsample_normal_with_log_ratio", _NAMES, (mean, *arguments[:3]))
    num_samples = arguments[4]
    return mean.new_empty((num_samples, *shape)), mean.new_empty((num_samples, *shape[:-1]))


_RATIO: Operation[tuple[Tensor, Tensor]] = Operation(
    name="rsample_normal_with_log_ratio",
    tensors=("Tensor mean", "Tensor logvar", "Tensor? prior_mean", "Tensor? prior_logvar", "Tensor seed"),
    constants=("SymInt num_samples", "bool detach_posterior", "SymInt row_offset"),
    formula=_ratio_formula,
    fake=_ratio_fake,
    normalise=_normalise_ratio,
    num_outputs=2,
    check=_check_ratio,
)


def rsample_normal_with_log_ratio(
    mean: Tensor,
    logvar: Tensor,
    num_samples: int,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    detach_posterior: bool = False,
    seed: Seed = None,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Reparameterised samples z of q and ``log p(z) - log q(z)``, in one pass.

    Parameters
    ----------
    mean, logvar
        Parameters of q, shape (..., D); they broadcast.
    num_samples
        K, the number of samples.
    prior_mean, prior_logvar
        Parameters of p, broadcast against q's; N(0, 1) where not given.
    detach_posterior
        Stop the gradient through q's parameters inside log q, as sticking the landing (Roeder et al. 2017) and the
        doubly reparameterised gradient (Tucker et al. 2019) do.
    seed, row_offset
        As in :func:`rsample_normal`, whose draws these are.

    Returns
    -------
    tuple[Tensor, Tensor]
        z of shape (K, ..., D), and the log ratio in nats, of shape (K, ...).

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not broadcast, devices differ, or a size, seed or offset is negative.

    Examples
    --------
    >>> import torch, fastvi
    >>> z, log_ratio = fastvi.rsample_normal_with_log_ratio(torch.zeros(4, 2), torch.zeros(4, 2), 5, seed=0)
    >>> z.shape, bool(log_ratio.abs().max() < 1e-6)  # q is the prior
    (torch.Size([5, 4, 2]), True)
    """
    check_seed_value("rsample_normal_with_log_ratio", seed)
    return _RATIO(mean, logvar, prior_mean, prior_logvar, seed, num_samples, detach_posterior, row_offset)
