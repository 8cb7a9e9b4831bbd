"""Plain-PyTorch twins of every operation: the definition that tests and benchmarks compare with.

They run in whatever precision the inputs have, so that float64 inputs give the reference values. Draws take their
standard normal noise ``eps`` as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOG_TWO_PI = math.log(2.0 * math.pi)


def rsample_normal(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """``mean + exp(logvar / 2) * eps``; ``eps`` has the shape ``sample_shape + mean.shape``."""
    return mean + torch.exp(0.5 * logvar) * eps


def _root_precision(logvar: Tensor) -> Tensor:
    """exp(-logvar / 4), finite, with the derivatives of an exponential; twice a factor it overflows where it should."""
    exponent = -0.25 * logvar
    largest = math.floor(math.log(torch.finfo(logvar.dtype).max))
    return torch.exp(torch.where(exponent > largest, largest + (exponent - exponent.detach()), exponent))


def _standardised(difference: Tensor, logvar: Tensor) -> Tensor:
    """``difference * exp(-logvar / 2)``; zero stays zero, however small the variance."""
    root = _root_precision(logvar)
    return difference * root * root


def kl_normal(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    free_bits: float = 0.0,
) -> Tensor:
    """KL(N(mean, exp(logvar)) || prior), summed over the last dimension; the default prior is N(0, 1)."""
    difference = mean if prior_mean is None else mean - prior_mean
    log_ratio = logvar if prior_logvar is None else logvar - prior_logvar
    standardised = difference if prior_logvar is None else _standardised(difference, prior_logvar)
    divergence = 0.5 * (standardised.square() + (torch.expm1(log_ratio) - log_ratio))
    if free_bits > 0.0:
        divergence = torch.clamp(divergence, min=free_bits)
    return divergence.sum(-1)


def normal_log_prob(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log density log N(x; mean, exp(logvar)), summed over the last dimension."""
    return (-0.5 * (_standardised(x - mean, logvar).square() + logvar + LOG_TWO_PI)).sum(-1)


def normal_entropy(logvar: Tensor) -> Tensor:
    """Entropy of N(., exp(logvar)) in nats, summed over the last dimension."""
    return (0.5 * (logvar + (1.0 + LOG_TWO_PI))).sum(-1)


def rsample_normal_with_log_ratio(
    mean: Tensor,
    logvar: Tensor,
    eps: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    detach_posterior: bool = False,
) -> tuple[Tensor, Tensor]:
    """(z, log p(z) - log q(z)); with ``detach_posterior`` q's parameters are constants inside log q."""
    z = rsample_normal(mean, logvar, eps)
    # In units of a deviation z - mean is eps by construction, and z - prior_mean a sum with it: no digit is lost in a
    # difference of z, however small the variance.
    if prior_mean is None and prior_logvar is None:
        from_prior, prior_logvar = z, mean.new_zeros(())
    else:
        prior_mean = mean.new_zeros(()) if prior_mean is None else prior_mean
        prior_logvar = mean.new_zeros(()) if prior_logvar is None else prior_logvar
        shift = _standardised(mean - prior_mean, prior_logvar)
        scaled = torch.exp(0.5 * (logvar - prior_logvar)) * eps
        # Of two infinities against each other one is left: they stand for numbers whose sum is beyond the dtype, too.
        from_prior = torch.where(shift.isinf() & scaled.isinf(), shift, shift + scaled)
    from_posterior = eps
    if detach_posterior:  # the same number, with the derivatives along the path of z
        path = torch.exp(0.5 * (logvar - logvar.detach())) * eps
        logvar = logvar.detach()
        from_posterior = _standardised(mean - mean.detach(), logvar) + path
    return z, 0.5 * (from_posterior.square() - from_prior.square() + (logvar - prior_logvar)).sum(-1)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """sum_d x * logits - softplus(logits) over the last dimension, with 0 * inf = 0 for logits that are certain."""
    is_negative = logits < 0
    weight = torch.where(is_negative, x, x - 1)
    is_certain = (weight == 0) & torch.isinf(logits)
    linear = weight * torch.where(is_certain, torch.zeros_like(logits), logits)
    # softplus(l) - max(l, 0) = -log sigmoid(|l|): PyTorch's softplus overflows, or is linear, where its threshold says
    return (linear + torch.nn.functional.logsigmoid(torch.where(is_negative, -logits, logits))).sum(-1)


_BERNOULLI_NUMBERS = [1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798]
_BERNOULLI_NUMBERS += [-174611 / 330, 854513 / 138, -236364091 / 2730]
_LOG_SINHC = [number / (2 * k * math.factorial(2 * k)) for k, number in enumerate(_BERNOULLI_NUMBERS, 1)]


def continuous_bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """sum_d x * logits - log((exp(logits) - 1) / logits) over the last dimension."""
    # Near zero, by its series: (x - 1/2) l - log(sinh(l/2) / (l/2)), the sum of B_2k l^2k / (2k (2k)!).
    is_near = logits.abs() < 1
    l_near = torch.where(is_near, logits, torch.zeros_like(logits))
    square = l_near.square()
    series = torch.zeros_like(logits)
    for coefficient in reversed(_LOG_SINHC):
        series = square * (coefficient + series)
    near = (x - 0.5) * l_near - series
    # Elsewhere x l - max(l, 0) + log(|l| / (1 - exp(-|l|))), with 0 * inf = 0.
    l_far = torch.where(is_near, torch.ones_like(logits), logits)
    weight = torch.where(l_far < 0, x, x - 1)
    is_certain = (weight == 0) & torch.isinf(l_far)
    linear = weight * torch.where(is_certain, torch.zeros_like(l_far), l_far)
    magnitude = torch.where(l_far < 0, -l_far, l_far)
    log_normaliser = magnitude.log() - torch.log(-torch.expm1(-magnitude))
    far = linear + torch.where(linear == -math.inf, torch.zeros_like(linear), log_normaliser)
    return torch.where(is_near, near, far).sum(-1)


def laplace_log_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """-sum_d |x - loc| exp(-log_scale) + log_scale + log 2 over the last dimension."""
    return -(_standardised(x - loc, 2 * log_scale).abs() + log_scale + math.log(2.0)).sum(-1)


def _or_nan(x: Tensor) -> Tensor:
    """The numbers from 0 on, and NaN for those below, also in derivatives."""
    return x + torch.where(x < 0, math.nan, torch.zeros_like(x))


def poisson_log_prob(x: Tensor, log_rate: Tensor) -> Tensor:
    """sum_d x * log_rate - exp(log_rate) - log Gamma(x + 1) over the last dimension, with 0 * log 0 = 0."""
    log_factorial = torch.lgamma(_or_nan(x) + 1)
    # An infinite rate outweighs x * log_rate.
    is_dropped = torch.isinf(log_rate) & ((x == 0) | (log_rate > 0))
    weight = torch.where(is_dropped, torch.zeros_like(log_rate), log_rate)
    return (x * weight - torch.exp(log_rate) - log_factorial).sum(-1)


# From here on eight terms of Stirling's series leave out less than the last digit of float64.
_STIRLING_FROM = 10.0
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)


def _stirling_correction(z: Tensor) -> Tensor:
    """What log Gamma(z) is above (z - 1/2) log z - z + log(2 pi) / 2, for z from 10 on."""
    inverse = 1 / z
    square, total = inverse * inverse, torch.zeros_like(z)
    for coefficient in reversed(_STIRLING):
        total = total * square + coefficient
    return total * inverse


def _log_rising_coefficient(x: Tensor, r: Tensor) -> Tensor:
    """The number log Gamma(x + r) - log Gamma(r) - log Gamma(x + 1), whose terms cancel where x or r is large."""
    x, r = torch.broadcast_tensors(x, r)
    few, many = torch.where(x < r, x, r), torch.where(x < r, r, x)
    few = _or_nan(few)
    large_few, large_many = few.clamp(min=_STIRLING_FROM), many.clamp(min=_STIRLING_FROM)
    # log Gamma(many + few + 1) - log Gamma(many + 1), but for few * log(many + few)
    total = many + few
    steps = (large_many + 0.5) * torch.log1p(few / large_many) - few
    steps = steps + _stirling_correction(large_many + few) - _stirling_correction(large_many)
    exact = torch.lgamma(total + 1) - torch.lgamma(many + 1)
    power = few * torch.log(torch.where(many < _STIRLING_FROM, 1.0, total))
    # ... less log Gamma(few + 1)
    entropy = few * torch.log(total / large_few) + few
    entropy = entropy - 0.5 * (torch.log(large_few) + LOG_TWO_PI) - _stirling_correction(large_few)
    both = torch.where(many < _STIRLING_FROM, exact, power + steps) - torch.lgamma(few + 1)
    part = torch.where(total == 0, 1.0, r / torch.where(total == 0, 1.0, total))
    return torch.where(few < _STIRLING_FROM, both, entropy + steps) + torch.log(part)


def _negative_binomial_terms(x: Tensor, total_count: Tensor, logits: Tensor) -> Tensor:
    """The log-likelihood of each element; a success that never comes costs nothing where none is counted."""
    log_success = torch.nn.functional.logsigmoid(logits)
    is_dropped = (x == 0) & torch.isneginf(logits)
    successes = x * torch.where(is_dropped, torch.zeros_like(log_success), log_success)
    failures = total_count * torch.nn.functional.logsigmoid(-logits)
    return _log_rising_coefficient(x, total_count) + (successes + failures)


def negative_binomial_log_prob(x: Tensor, total_count: Tensor, logits: Tensor) -> Tensor:
    """Log-likelihood of x successes before the ``total_count``-th failure, summed over the last dimension."""
    return _negative_binomial_terms(x, total_count, logits).sum(-1)


def zero_inflated_negative_binomial_log_prob(
    x: Tensor, total_count: Tensor, logits: Tensor, gate_logits: Tensor
) -> Tensor:
    """The same with zeros besides, of the probability sigmoid(gate_logits)."""
    log_regular = torch.nn.functional.logsigmoid(-gate_logits)
    counts = log_regular + _negative_binomial_terms(x, total_count, logits)
    # Where x is not zero its formula has numbers that leave no NaN in derivatives.
    is_zero = x == 0
    gate = torch.where(is_zero, gate_logits, 0.0)
    none = torch.where(is_zero, log_regular + total_count * torch.nn.functional.logsigmoid(-logits), 0.0)
    zero = torch.logaddexp(torch.nn.functional.logsigmoid(gate), none)
    return torch.where(is_zero, zero, counts).sum(-1)


def linear_bernoulli_log_prob(h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """``bernoulli_log_prob(x, h @ weight.T + bias)``."""
    return bernoulli_log_prob(x, torch.nn.functional.linear(h, weight, bias))


def _softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x); PyTorch's is x where x is above 20."""
    return torch.logaddexp(x, x.new_zeros(()))


def _silu(x: Tensor) -> Tensor:
    """X times the logistic function; PyTorch's function has no forward-mode derivative of its gradient."""
    return x * torch.sigmoid(x)


def _gelu(x: Tensor) -> Tensor:
    """X times the normal distribution function; PyTorch's is zero where that is less than half a unit of one."""
    return 0.5 * x * torch.erfc(-math.sqrt(0.5) * x)


_ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": _softplus,
    "elu": torch.nn.functional.elu,
    "silu": _silu,
    "gelu": _gelu,
}


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    activation: str = "tanh",
    activate_last: bool = False,
) -> Tensor:
    """A perceptron: linear layers with an activation after each, but the last one unless ``activate_last``."""
    last = len(weights) - 1
    for i, weight in enumerate(weights):
        x = torch.nn.functional.linear(x, weight, None if biases is None else biases[i])
        if i < last or activate_last:
            x = _ACTIVATIONS[activation](x)
    return x


def mlp_bernoulli_log_prob(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None, x: Tensor, activation: str = "tanh"
) -> Tensor:
    """``bernoulli_log_prob(x, mlp(z, weights, biases, activation))``."""
    return bernoulli_log_prob(x, mlp(z, weights, biases, activation))


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    """The stable log(mean(exp(x))) over ``dim``."""
    return torch.logsumexp(x, dim) - math.log(x.shape[dim])


def importance_weights(log_weights: Tensor, dim: int) -> Tensor:
    """Weights proportional to exp(log_weights) that sum to one over ``dim``."""
    return torch.softmax(log_weights, dim)


def effective_sample_size(log_weights: Tensor, dim: int) -> Tensor:
    """1 / sum of the squared normalised weights over ``dim``."""
    return 1.0 / torch.softmax(log_weights, dim).square().sum(dim)


def leapfrog_step(
    q: Tensor,
    p: Tensor,
    grad: Tensor,
    step_size: Tensor | float,
    inverse_mass: Tensor | float | None = None,
    kick: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Kick and drift: p' = p - kick * step_size * grad; q' = q + step_size * inverse_mass * p'."""
    momentum = p - kick * step_size * grad
    velocity = momentum if inverse_mass is None else inverse_mass * momentum
    position = q + step_size * velocity
    return position, momentum.expand(position.shape)


def momentum_kick(p: Tensor, grad: Tensor, step_size: Tensor | float, kick: float = 0.5) -> Tensor:
    """``p - kick * step_size * grad``, the momentum that :func:`leapfrog_step` gives."""
    return p - kick * step_size * grad


def kinetic_energy(p: Tensor, inverse_mass: Tensor | None = None) -> Tensor:
    """1/2 sum_d p^2 * inverse_mass over the last dimension."""
    velocity = p if inverse_mass is None else p * inverse_mass  # whose product with p is finite where p^2 may not be
    return 0.5 * (p * velocity).sum(-1)


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """sign(x) * max(|x| - threshold, 0); for negative thresholds x - threshold * sign(x), NaN for NaN."""
    is_zero = x.abs() <= threshold
    return torch.where(is_zero, torch.zeros_like(x), x - torch.sign(x) * threshold)
