"""The fused operations: differentiable, drop-in, one module a family. Formulas: :mod:`fastvi.reference`."""

from fastvi.ops.bernoulli import bernoulli_log_prob, linear_bernoulli_log_prob
from fastvi.ops.laplace import laplace_log_prob
from fastvi.ops.leapfrog import kinetic_energy, leapfrog_step
from fastvi.ops.log_mean_exp import LogMeanExp, effective_sample_size, importance_weights, log_mean_exp
from fastvi.ops.normal import kl_normal, normal_entropy, normal_log_prob
from fastvi.ops.random import standard_normal
from fastvi.ops.sampling import rsample_normal, rsample_normal_with_log_ratio
from fastvi.ops.threshold import soft_threshold

__all__ = [
    "LogMeanExp",
    "bernoulli_log_prob",
    "effective_sample_size",
    "importance_weights",
    "kinetic_energy",
    "kl_normal",
    "laplace_log_prob",
    "leapfrog_step",
    "linear_bernoulli_log_prob",
    "log_mean_exp",
    "normal_entropy",
    "normal_log_prob",
    "rsample_normal",
    "rsample_normal_with_log_ratio",
    "soft_threshold",
    "standard_normal",
]
