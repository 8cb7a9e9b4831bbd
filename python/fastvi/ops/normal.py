"""Diagonal Gaussians: divergence, log density, entropy, and reparameterised samples whose noise is never stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvi import reference
from fastvi._sizes import check_counters, check_flag
from fastvi.ops._backends import kernels
from fastvi.ops._checks import check_number, check_operands, check_shape, check_size, number_tensor
from fastvi.ops._precision import backward_in_compute_dtype
from fastvi.ops._registration import Operation, Tensors, batch_broadcasting
from fastvi.ops._rows import NO_VIEW, Rows, View, broadcast_shape, check_upstream, present, row_backward
from fastvi.ops.random import Seed, normal_noise, seed_tensor

_PRIOR_NAMES = ("prior_mean", "prior_logvar")
_KL_NAMES = ("mean", "logvar", *_PRIOR_NAMES)
_LOG_PROB_NAMES = ("x", "mean", "logvar")
_Needs = Sequence[bool]


def _complete_prior(prior_mean: Tensor | None, prior_logvar: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A prior with one parameter given gets the standard normal's other one."""
    if prior_mean is None and prior_logvar is not None:
        prior_mean = prior_logvar.new_zeros(1)
    elif prior_logvar is None and prior_mean is not None:
        prior_logvar = prior_mean.new_zeros(1)
    return prior_mean, prior_logvar


def _check_prior(operation: str, prior_mean: Tensor | None, prior_logvar: Tensor | None) -> None:
    if (prior_mean is None) is not (prior_logvar is None):
        raise ValueError(f"{operation}: expected both prior_mean and prior_logvar, or neither")


def _check_kl(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None, free_bits: float
) -> None:
    _check_prior("kl_normal", prior_mean, prior_logvar)
    if not free_bits >= 0.0:
        raise ValueError(f"kl_normal: free_bits is {free_bits}, expected a non-negative number of nats")


def _kl_rows(mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None) -> Rows:
    if prior_mean is None or prior_logvar is None:
        return Rows("kl_normal", ("mean", "logvar"), (mean, logvar))
    return Rows("kl_normal", _KL_NAMES, (mean, logvar, prior_mean, prior_logvar))


def _kl_forward(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None, free_bits: float
) -> Tensor:
    rows = _kl_rows(mean, logvar, prior_mean, prior_logvar)
    out = mean.new_empty(rows.plan.leading)
    views = rows.views if prior_mean is not None else (*rows.views, NO_VIEW, NO_VIEW)
    kernels(mean).kl_normal(rows.extent, *views, free_bits, out.data_ptr())
    return out


def _kl_backward(
    grads: Tensors, tensors: tuple[Tensor, ...], constants: tuple[float], needs: _Needs, _: Tensors
) -> tuple[Tensor | None, ...]:
    rows = _kl_rows(*tensors)
    (grad,) = grads
    assert grad is not None
    if tensors[2] is not None:
        return row_backward("kl_normal_backward", rows, rows.views, constants, grad, tensors, needs)
    views = (*rows.views, NO_VIEW, NO_VIEW)
    return *row_backward("kl_normal_backward", rows, views, constants, grad, tensors[:2], needs), None, None


def _kl_formula(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | None, prior_logvar: Tensor | None, free_bits: float
) -> Tensor:
    parameters = (mean, logvar, prior_mean, prior_logvar)
    if not (torch.compiler.is_compiling() and free_bits > 0.0):
        return reference.kl_normal(*parameters, free_bits)
    # To clamp by another number would be another program; by another tensor it is the same.
    columns: list[Any] = [None if tensor is None else tensor.unsqueeze(-1) for tensor in parameters]
    each = reference.kl_normal(*columns)
    return torch.clamp(each, min=number_tensor(free_bits, each.dtype, each.device)).sum(-1)


_KL = Operation(
    name="kl_normal",
    tensors=("Tensor mean", "Tensor logvar", "Tensor? prior_mean", "Tensor? prior_logvar"),
    constants=("float free_bits",),
    forward=_kl_forward,
    backward=_kl_backward,
    formula=_kl_formula,
    fake=lambda *arguments: arguments[0].new_empty(broadcast_shape("kl_normal", _KL_NAMES, arguments[:4])[:-1]),
    check=_check_kl,
    usual_numbers=(0.0,),
    batch=batch_broadcasting,
)


def kl_normal(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    free_bits: float = 0.0,
) -> Tensor:
    r"""KL divergence of diagonal Gaussians in nats, summed over the last dimension.

    .. math:: \tfrac12 \sum_d (\mu_d - m_d)^2 e^{-s_d} + e^{\lambda_d - s_d} - 1 - (\lambda_d - s_d)

    for q = N(mean :math:`\mu`, logvar :math:`\lambda`) and p = N(prior_mean m, prior_logvar s). The exponential is
    taken without cancellation, so that small divergences keep their digits.

    Parameters
    ----------
    mean, logvar
        Shape (..., D); they broadcast.
    prior_mean, prior_logvar
        The prior, broadcast against the others; N(0, 1) where not given.
    free_bits
        Nats below which a dimension's divergence is clamped, and sends no gradient (Kingma et al. 2016).

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast, devices differ, or ``free_bits`` is negative.

    References
    ----------
    Kingma, Welling: Auto-encoding variational Bayes. ICLR 2014, appendix B.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.kl_normal(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([1.5000, 1.5000])
    """
    mean, logvar, prior_mean, prior_logvar = check_operands(
        "kl_normal", _KL_NAMES, (mean, logvar, prior_mean, prior_logvar), optional=_PRIOR_NAMES
    )
    free_bits = check_number("kl_normal", "free_bits", free_bits)
    if prior_mean is not None or prior_logvar is not None:
        prior_mean, prior_logvar = _complete_prior(prior_mean, prior_logvar)
    result: Tensor = _KL(mean, logvar, prior_mean, prior_logvar, free_bits)
    return result


def _log_prob_forward(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    rows = Rows("normal_log_prob", _LOG_PROB_NAMES, (x, mean, logvar))
    out = x.new_empty(rows.plan.leading)
    kernels(x).normal_log_prob(rows.extent, *rows.views, out.data_ptr())
    return out


def _log_prob_backward(
    grads: Tensors, tensors: tuple[Tensor, ...], _: tuple[()], needs: _Needs, __: Tensors
) -> tuple[Tensor | None, ...]:
    rows = Rows("normal_log_prob", _LOG_PROB_NAMES, tensors)
    (grad,) = grads
    assert grad is not None
    return row_backward("normal_log_prob_backward", rows, rows.views, (), grad, tensors, needs)


_LOG_PROB = Operation(
    name="normal_log_prob",
    tensors=("Tensor x", "Tensor mean", "Tensor logvar"),
    constants=(),
    forward=_log_prob_forward,
    backward=_log_prob_backward,
    formula=reference.normal_log_prob,
    fake=lambda *tensors: tensors[0].new_empty(broadcast_shape("normal_log_prob", _LOG_PROB_NAMES, tensors)[:-1]),
    batch=batch_broadcasting,
)


def normal_log_prob(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    r"""Log density of a diagonal Gaussian in nats, summed over the last dimension.

    .. math:: -\tfrac12 \sum_d (x_d - \mu_d)^2 e^{-\lambda_d} + \lambda_d + \log 2\pi

    Parameters
    ----------
    x, mean, logvar
        Shape (..., D); they broadcast, for example (K, B, D) with (B, D), without being copied.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument is no floating-point tensor, or the dtypes differ.
    ValueError
        If shapes do not broadcast or devices differ.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.normal_log_prob(torch.zeros(5, 1, 2), torch.zeros(3, 2), torch.zeros(3, 2)).shape
    torch.Size([5, 3])
    """
    x, mean, logvar = check_operands("normal_log_prob", _LOG_PROB_NAMES, (x, mean, logvar))
    result: Tensor = _LOG_PROB(x, mean, logvar)
    return result


def _entropy_forward(logvar: Tensor) -> Tensor:
    rows = Rows("normal_entropy", ("logvar",), (logvar,))
    out = logvar.new_empty(rows.plan.leading)
    kernels(logvar).normal_entropy(rows.extent, *rows.views, out.data_ptr())
    return out


def _entropy_backward(
    grads: Tensors, tensors: tuple[Tensor, ...], _: tuple[()], needs: _Needs, __: Tensors
) -> tuple[Tensor | None, ...]:
    rows = Rows("normal_entropy", ("logvar",), tensors)
    (grad,) = grads
    assert grad is not None
    return row_backward("normal_entropy_backward", rows, rows.views, (), grad, tensors, needs)


_ENTROPY = Operation(
    name="normal_entropy",
    tensors=("Tensor logvar",),
    constants=(),
    forward=_entropy_forward,
    backward=_entropy_backward,
    formula=reference.normal_entropy,
    fake=lambda logvar: logvar.new_empty(broadcast_shape("normal_entropy", ("logvar",), (logvar,))[:-1]),
    batch=batch_broadcasting,
)


def normal_entropy(logvar: Tensor) -> Tensor:
    r"""Entropy of a diagonal Gaussian in nats, :math:`\tfrac12 \sum_d \lambda_d + 1 + \log 2\pi`.

    Parameters
    ----------
    logvar
        Shape (..., D).

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If ``logvar`` is no floating-point tensor.
    ValueError
        If ``logvar`` has no dimension.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.normal_entropy(torch.zeros(2))
    tensor(2.8379)
    """
    (logvar,) = check_operands("normal_entropy", ("logvar",), (logvar,))
    result: Tensor = _ENTROPY(logvar)
    return result


def _sample_rows(operation: str, names: tuple[str, ...], parameters: Sequence[Tensor]) -> Rows:
    """Parameters as (1, rows, columns): every axis of theirs is a row, samples come on top."""
    return Rows(operation, names, parameters, sample_rank=0)


def _parameter_gradients(
    rows: Rows, parameters: Sequence[Tensor], needs: _Needs
) -> tuple[list[Tensor | None], list[int]]:
    """Memory for the gradients that are needed, and their addresses, zero for the others."""
    gradients: list[Tensor | None] = []
    addresses = []
    for i, parameter in enumerate(parameters):
        gradient, address = None, 0
        if needs[i]:
            gradient, (address, _) = rows.new_gradient(i, parameter)
        gradients.append(gradient)
        addresses.append(address)
    return gradients, addresses


def _rsample_forward(
    mean: Tensor, logvar: Tensor, seed: Tensor, sample_shape: Sequence[int], row_offset: int
) -> Tensor:
    rows = _sample_rows("rsample_normal", ("mean", "logvar"), (mean, logvar))
    count, columns = rows.extent[1:]
    z = mean.new_empty((*sample_shape, *rows.plan.leading, columns))
    extent = (math.prod(sample_shape), count, columns)
    kernels(mean).rsample_normal(extent, *rows.views, seed.data_ptr(), row_offset, z.data_ptr())
    return z


def _rsample_backward(
    grads: Tensors, tensors: tuple[Tensor, ...], constants: tuple[Sequence[int], int], needs: _Needs, _: Tensors
) -> tuple[Tensor | None, ...]:
    mean, logvar, seed = tensors
    sample_shape, row_offset = constants
    (grad,) = grads
    assert grad is not None
    rows = _sample_rows("rsample_normal", ("mean", "logvar"), (mean, logvar))
    if rows.rounds_too_early(mean.dtype, needs):
        return _wide_rsample_backward(grads, tensors, constants, needs, ())
    count, columns = rows.extent[1:]
    check_upstream("rsample_normal", grad, (*sample_shape, *rows.plan.leading, columns))
    grad = grad.contiguous()
    gradients, addresses = _parameter_gradients(rows, (mean, logvar), needs)
    kernels(grad).rsample_normal_backward(
        (math.prod(sample_shape), count, columns),
        *rows.views,
        seed.data_ptr(),
        row_offset,
        grad.data_ptr(),
        *addresses,
    )
    return rows.in_operand_shape(0, gradients[0], mean), rows.in_operand_shape(1, gradients[1], logvar), None


_wide_rsample_backward = backward_in_compute_dtype(_rsample_backward)


def _rsample_formula(
    mean: Tensor, logvar: Tensor, seed: Tensor, sample_shape: Sequence[int], row_offset: int
) -> Tensor:
    shape = broadcast_shape("rsample_normal", ("mean", "logvar"), (mean, logvar))
    return reference.rsample_normal(mean, logvar, normal_noise(seed, sample_shape, shape, row_offset, mean))


def _check_draws(operation: str, parameters: Sequence[Tensor | None], names: Sequence[str], samples: int) -> None:
    check_counters(operation, samples, broadcast_shape(operation, names, parameters)[-1])


def _check_rsample(mean: Tensor, logvar: Tensor, seed: Tensor, sample_shape: Sequence[int], row_offset: int) -> None:
    _check_draws("rsample_normal", (mean, logvar), ("mean", "logvar"), math.prod(sample_shape))


_RSAMPLE = Operation(
    name="rsample_normal",
    tensors=("Tensor mean", "Tensor logvar", "Tensor seed"),
    constants=("SymInt[] sample_shape", "SymInt row_offset"),
    forward=_rsample_forward,
    backward=_rsample_backward,
    formula=_rsample_formula,
    fake=lambda mean, logvar, seed, sample_shape, row_offset: mean.new_empty(
        (*sample_shape, *broadcast_shape("rsample_normal", ("mean", "logvar"), (mean, logvar)))
    ),
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
    mean, logvar = check_operands("rsample_normal", ("mean", "logvar"), (mean, logvar))
    samples = check_shape("rsample_normal", "sample_shape", sample_shape)
    row_offset = check_size("rsample_normal", "row_offset", row_offset)
    result: Tensor = _RSAMPLE(mean, logvar, seed_tensor("rsample_normal", seed, mean.device), samples, row_offset)
    return result


def _ratio_rows(tensors: Sequence[Tensor | None]) -> tuple[Rows, list[View]]:
    names, parameters = present(_KL_NAMES, tensors)
    rows = _sample_rows("rsample_normal_with_log_ratio", names, parameters)
    return rows, [*rows.views, *[NO_VIEW] * (4 - len(parameters))]


def _ratio_forward(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None,
    prior_logvar: Tensor | None,
    seed: Tensor,
    num_samples: int,
    detach_posterior: bool,
    row_offset: int,
) -> tuple[Tensor, Tensor]:
    rows, views = _ratio_rows((mean, logvar, prior_mean, prior_logvar))
    count, columns = rows.extent[1:]
    z = mean.new_empty((num_samples, *rows.plan.leading, columns))
    log_ratio = mean.new_empty((num_samples, *rows.plan.leading))
    kernels(mean).rsample_normal_with_log_ratio(
        (num_samples, count, columns), *views, seed.data_ptr(), row_offset, z.data_ptr(), log_ratio.data_ptr()
    )
    return z, log_ratio


def _ratio_backward(
    grads: Tensors, tensors: Tensors, constants: tuple[int, bool, int], needs: _Needs, _: Tensors
) -> tuple[Tensor | None, ...]:
    num_samples, detach_posterior, row_offset = constants
    rows, views = _ratio_rows(tensors[:4])
    count, columns = rows.extent[1:]
    like, seed = tensors[0], tensors[4]
    assert like is not None
    assert seed is not None
    if rows.rounds_too_early(like.dtype, needs):
        return _wide_ratio_backward(grads, tensors, constants, needs, ())
    shape = (num_samples, *rows.plan.leading)
    for grad, expected in zip(grads, ((*shape, columns), shape), strict=True):
        if grad is not None:
            check_upstream("rsample_normal_with_log_ratio", grad, expected)
    by_z, by_ratio = (None if grad is None else grad.contiguous() for grad in grads)
    parameters = [tensor for tensor in tensors[:4] if tensor is not None]
    gradients, addresses = _parameter_gradients(rows, parameters, needs)
    absent = 4 - len(parameters)
    kernels(like).rsample_normal_with_log_ratio_backward(
        (num_samples, count, columns),
        *views,
        seed.data_ptr(),
        row_offset,
        detach_posterior,
        0 if by_z is None else by_z.data_ptr(),
        NO_VIEW if by_ratio is None else (by_ratio.data_ptr(), count, 1),
        *addresses,
        *(0,) * absent,
    )
    found = [rows.in_operand_shape(i, gradient, parameters[i]) for i, gradient in enumerate(gradients)]
    return *found, *(None,) * absent, None


_wide_ratio_backward = backward_in_compute_dtype(_ratio_backward)


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
    shape = broadcast_shape("rsample_normal_with_log_ratio", _KL_NAMES, (mean, logvar, prior_mean, prior_logvar))
    eps = normal_noise(seed, (num_samples,), shape, row_offset, mean)
    return reference.rsample_normal_with_log_ratio(mean, logvar, eps, prior_mean, prior_logvar, detach_posterior)


def _check_ratio(mean: Tensor, *arguments: Any) -> None:
    parameters, num_samples = (mean, *arguments[:3]), arguments[4]
    _check_prior("rsample_normal_with_log_ratio", *parameters[2:])
    _check_draws("rsample_normal_with_log_ratio", parameters, _KL_NAMES, num_samples)


def _ratio_fake(mean: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    shape = broadcast_shape("rsample_normal_with_log_ratio", _KL_NAMES, (mean, *arguments[:3]))
    num_samples = arguments[4]
    return mean.new_empty((num_samples, *shape)), mean.new_empty((num_samples, *shape[:-1]))


_RATIO = Operation(
    name="rsample_normal_with_log_ratio",
    tensors=("Tensor mean", "Tensor logvar", "Tensor? prior_mean", "Tensor? prior_logvar", "Tensor seed"),
    constants=("SymInt num_samples", "bool detach_posterior", "SymInt row_offset"),
    forward=_ratio_forward,
    backward=_ratio_backward,
    formula=_ratio_formula,
    fake=_ratio_fake,
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
    operation = "rsample_normal_with_log_ratio"
    mean, logvar, prior_mean, prior_logvar = check_operands(
        operation, _KL_NAMES, (mean, logvar, prior_mean, prior_logvar), optional=_PRIOR_NAMES
    )
    detach_posterior = check_flag(operation, "detach_posterior", detach_posterior)
    num_samples = check_size(operation, "num_samples", num_samples)
    row_offset = check_size(operation, "row_offset", row_offset)
    if prior_mean is not None or prior_logvar is not None:
        prior_mean, prior_logvar = _complete_prior(prior_mean, prior_logvar)
    seeds = seed_tensor(operation, seed, mean.device)
    z, log_ratio = _RATIO(mean, logvar, prior_mean, prior_logvar, seeds, num_samples, detach_posterior, row_offset)
    return z, log_ratio
