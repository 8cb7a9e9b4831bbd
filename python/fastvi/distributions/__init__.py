"""Drop-in ``torch.distributions`` on fastvi's operations: vectors with independent components, and transforms.

:class:`DiagNormal` and :class:`DiagLaplace` are posteriors, priors and likelihoods; :class:`BernoulliLogits` and
:class:`LinearBernoulli` are likelihoods of binary data, and :func:`categorical_log_prob` is that of classes. They are
equal to ``Independent`` ones of PyTorch's, shapes included. :mod:`fastvi.pyro` has them for Pyro.

Examples
--------
>>> import torch
>>> from torch.distributions import Bernoulli, Independent
>>> from fastvi.distributions import BernoulliLogits
>>> logits, x = torch.tensor([[0.0, 2.0], [-1.0, 3.0]]), torch.ones(2, 2)
>>> fused, plain = BernoulliLogits(logits), Independent(Bernoulli(logits=logits), 1)
>>> fused.batch_shape == plain.batch_shape, bool(torch.allclose(fused.log_prob(x), plain.log_prob(x)))
(True, True)
"""

from fastvi.distributions.bernoulli import BernoulliLogits, LinearBernoulli
from fastvi.distributions.categorical import categorical_log_prob
from fastvi.distributions.laplace import DiagLaplace
from fastvi.distributions.normal import DiagNormal
from fastvi.distributions.transforms import ModuleTransform

__all__ = [
    "BernoulliLogits",
    "DiagLaplace",
    "DiagNormal",
    "LinearBernoulli",
    "ModuleTransform",
    "categorical_log_prob",
]
