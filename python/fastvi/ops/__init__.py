"""The fused operations: differentiable, drop-in, one module a family. Formulas: :mod:`fastvi.reference`.

This is the list of public operations: an import ``from fastvi.ops.FAMILY import NAME as NAME`` each. ``fastvi.NAME``,
``fastvi.__all__`` and ``fastvi.ops.__all__`` follow from it, for type checkers, too.
"""

from typing import TYPE_CHECKING

from fastvi._names import operation_names
from fastvi.ops.bernoulli import bernoulli_log_prob as bernoulli_log_prob
from fastvi.ops.bernoulli import linear_bernoulli_log_prob as linear_bernoulli_log_prob
from fastvi.ops.continuous_bernoulli import continuous_bernoulli_log_prob as continuous_bernoulli_log_prob
from fastvi.ops.laplace import laplace_log_prob as laplace_log_prob
from fastvi.ops.leapfrog import kinetic_energy as kinetic_energy
from fastvi.ops.leapfrog import leapfrog_step as leapfrog_step
from fastvi.ops.leapfrog import momentum_kick as momentum_kick
from fastvi.ops.log_mean_exp import LogMeanExp as LogMeanExp
from fastvi.ops.log_mean_exp import effective_sample_size as effective_sample_size
from fastvi.ops.log_mean_exp import importance_weights as importance_weights
from fastvi.ops.log_mean_exp import log_mean_exp as log_mean_exp
from fastvi.ops.mlp import mlp as mlp
from fastvi.ops.mlp import mlp_bernoulli_log_prob as mlp_bernoulli_log_prob
from fastvi.ops.negative_binomial import negative_binomial_log_prob as negative_binomial_log_prob
from fastvi.ops.negative_binomial import (
    zero_inflated_negative_binomial_log_prob as zero_inflated_negative_binomial_log_prob,
)
from fastvi.ops.normal import kl_normal as kl_normal
from fastvi.ops.normal import normal_entropy as normal_entropy
from fastvi.ops.normal import normal_log_prob as normal_log_prob
from fastvi.ops.poisson import poisson_log_prob as poisson_log_prob
from fastvi.ops.random import standard_normal as standard_normal
from fastvi.ops.sampling import rsample_normal as rsample_normal
from fastvi.ops.sampling import rsample_normal_with_log_ratio as rsample_normal_with_log_ratio
from fastvi.ops.threshold import soft_threshold as soft_threshold

if not TYPE_CHECKING:  # type checkers take the names from the imports themselves
    __all__ = list(operation_names())
