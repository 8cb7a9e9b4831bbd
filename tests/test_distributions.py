"""DiagNormal against ``Independent(Normal(...), 1)`` of PyTorch."""

import copy
import doctest
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td
from torch.distributions import constraints, kl_divergence

import fastvi.distributions
from fastvi.distributions import DiagNormal

ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""Two orders of the same float64 operations."""


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def twin(mean, logvar, validate_args=None):
    return td.Independent(td.Normal(mean, torch.exp(0.5 * logvar), validate_args), 1, validate_args)


axes = st.lists(st.integers(1, 3), max_size=2)


@given(axes, st.lists(st.booleans(), min_size=2, max_size=2), st.integers(1, 4))
def test_equal_to_independent_normal(batch, ones, event):
    """Shapes, moments, densities and their gradients; mean and logvar broadcast either way."""
    logvar_shape = [1 if one else size for one, size in zip(ones, batch, strict=False)]
    mean, logvar = tensors((*batch, event), (*logvar_shape, event))
    ours, theirs = DiagNormal(mean, logvar), twin(mean, logvar)
    assert ours.batch_shape == theirs.batch_shape
    assert ours.event_shape == theirs.event_shape
    for name in ("mean", "mode", "variance", "stddev"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **ROUNDING)
    (value,) = tensors((2, *batch, event), seed=1)
    for function in (lambda d: d.entropy(), lambda d: d.log_prob(value)):
        result, expected = function(ours), function(theirs)
        torch.testing.assert_close(result, expected, **ROUNDING)
        inputs = (mean, logvar, value)
        gradients = [
            torch.autograd.grad(output.sum(), inputs, retain_graph=True, allow_unused=True)
            for output in (result, expected)
        ]
        for gradient, expected_gradient, leaf in zip(*gradients, inputs, strict=True):
            zeros = torch.zeros_like(leaf)  # whether what is not used is None or zeros is no matter
            torch.testing.assert_close(
                zeros if gradient is None else gradient,
                zeros if expected_gradient is None else expected_gradient,
                **ROUNDING,
            )


def test_empty_batch():
    """PyTorch's Independent and its check of vectors fail here."""
    distribution = DiagNormal(torch.zeros(0, 2), torch.zeros(2))
    assert distribution.rsample((3,)).shape == (3, 0, 2)
    assert distribution.log_prob(torch.zeros(3, 0, 2)).shape == (3, 0)
    assert distribution.entropy().shape == (0,)
    assert kl_divergence(distribution, distribution).shape == (0,)
    assert DiagNormal(torch.zeros(3, 2), torch.zeros(3, 2)).log_prob(torch.zeros(0, 3, 2)).shape == (0, 3)


def test_samples():
    mean, logvar = tensors((3, 2), (2,))
    distribution = DiagNormal(mean, logvar)
    torch.manual_seed(1)
    draws = distribution.rsample((50_000,))
    assert draws.shape == (50_000, 3, 2)
    noise = (draws.detach() - distribution.mean) / distribution.stddev
    assert noise.mean(0).abs().max() < 4.5 / math.sqrt(50_000)  # 4.5 standard errors of a mean of N(0, 1)
    assert (noise.square().mean(0) - 1.0).abs().max() < 4.5 * math.sqrt(2.0 / 50_000)  # and of its square's
    assert (noise.flatten(1).T.corrcoef() - torch.eye(6)).abs().max() < 4.5 / math.sqrt(50_000)


def test_reparameterised_gradient():
    mean, logvar = tensors((3, 2), (3, 2))
    draws = DiagNormal(mean, logvar).rsample((4,))
    (cotangent,) = tensors((4, 3, 2), seed=1)
    gradients = torch.autograd.grad(draws, (mean, logvar), cotangent)
    expected = (cotangent.sum(0), 0.5 * (cotangent * (draws - mean)).sum(0))  # dz/dlogvar = scale * noise / 2
    torch.testing.assert_close(gradients, expected, **ROUNDING)


def test_sample_has_no_gradient_and_follows_the_seed():
    distribution = DiagNormal(*tensors((3, 2), (3, 2)))
    torch.manual_seed(2)
    first, second = distribution.sample(), distribution.sample((5,))
    assert first.shape == (3, 2)
    assert second.shape == (5, 3, 2)
    assert not first.requires_grad
    torch.manual_seed(2)
    assert torch.equal(distribution.rsample(), first)
    assert not torch.equal(distribution.sample(), first)


def test_divergences():
    mean, logvar, other_mean, other_logvar = tensors((4, 1, 3), (4, 1, 3), (2, 3), (2, 3))
    ours, other = DiagNormal(mean, logvar), DiagNormal(other_mean, other_logvar)
    theirs, their_other = twin(mean, logvar), twin(other_mean, other_logvar)
    expected = kl_divergence(theirs, their_other)
    inputs = (mean, logvar, other_mean, other_logvar)
    expected_gradients = torch.autograd.grad(expected.sum(), inputs, retain_graph=True)
    assert expected.shape == (4, 2)
    for p, q in ((ours, other), (ours, their_other), (theirs, other)):
        divergence = kl_divergence(p, q)
        torch.testing.assert_close(divergence, expected, **ROUNDING)
        gradients = torch.autograd.grad(divergence.sum(), inputs, retain_graph=True)
        torch.testing.assert_close(gradients, expected_gradients, **ROUNDING)


def test_small_divergence_keeps_its_digits():
    """Where PyTorch's formula subtracts numbers near 1, and leaves float32 nothing but rounding."""
    zeros, tiny = torch.zeros(1), torch.full((1,), 1e-4)
    divergence = kl_divergence(DiagNormal(zeros, tiny), DiagNormal(zeros, zeros))
    exact = 0.5 * (math.expm1(1e-4) - 1e-4)
    # float32 rounds logvar and the difference of expm1(logvar) and logvar: 1e-7 / 5e-5 of the result.
    torch.testing.assert_close(divergence.item(), exact, rtol=4e-3, atol=0.0)


def test_unknown_divergences_are_refused():
    distribution = DiagNormal(torch.zeros(2, 3), torch.zeros(2, 3))
    two_axes = td.Independent(td.Normal(torch.zeros(2, 3), 1.0), 2)
    for other in (two_axes, td.Independent(td.Laplace(torch.zeros(2, 3), 1.0), 1)):
        for pair in ((distribution, other), (other, distribution)):
            with pytest.raises(NotImplementedError, match="kl_divergence between a DiagNormal and Independent"):
                kl_divergence(*pair)
    with pytest.raises(ValueError, match="events must have one shape"):
        kl_divergence(distribution, DiagNormal(torch.zeros(1), torch.zeros(1)))


def test_expand():
    mean, logvar = tensors((3, 2), (2,))
    expanded = DiagNormal(mean, logvar).expand((4, 3))
    expected = twin(mean, logvar).expand((4, 3))
    assert expanded.batch_shape == (4, 3)
    assert expanded.event_shape == (2,)
    assert type(expanded) is DiagNormal
    assert expanded.mean.data_ptr() == mean.data_ptr()  # nothing is copied
    (value,) = tensors((4, 3, 2), seed=1)
    torch.testing.assert_close(expanded.log_prob(value), expected.log_prob(value), **ROUNDING)
    torch.testing.assert_close(expanded.entropy(), expected.entropy(), **ROUNDING)
    assert expanded.rsample((5,)).shape == (5, 4, 3, 2)


def test_expanded_subclass_keeps_its_type():
    class Named(DiagNormal):
        def expand(self, batch_shape, _instance=None):
            return super().expand(batch_shape, self._get_checked_instance(Named, _instance))

    assert type(Named(torch.zeros(2), torch.zeros(2)).expand((3,))) is Named


def test_inside_other_distributions():
    mean, logvar = tensors((3, 2), (3, 2))
    ours, theirs = DiagNormal(mean, logvar), twin(mean, logvar)
    value = torch.rand(3, 2, dtype=torch.float64) + 0.5
    log_normals = [td.TransformedDistribution(base, [td.transforms.ExpTransform()]) for base in (ours, theirs)]
    torch.testing.assert_close(log_normals[0].log_prob(value), log_normals[1].log_prob(value), **ROUNDING)
    assert log_normals[0].rsample((4,)).shape == (4, 3, 2)
    stacked = [td.Independent(base, 1) for base in (ours, theirs)]
    assert stacked[0].event_shape == (3, 2)
    torch.testing.assert_close(stacked[0].log_prob(value), stacked[1].log_prob(value), **ROUNDING)
    divergence = kl_divergence(stacked[0], td.Independent(DiagNormal(logvar, mean), 1))
    torch.testing.assert_close(divergence, kl_divergence(ours, DiagNormal(logvar, mean)).sum(), **ROUNDING)
    mixture = td.Categorical(logits=torch.zeros(3, dtype=torch.float64))
    mixtures = [td.MixtureSameFamily(mixture, base) for base in (ours, theirs)]
    torch.testing.assert_close(mixtures[0].log_prob(value[0]), mixtures[1].log_prob(value[0]), **ROUNDING)


def test_declarations():
    distribution = DiagNormal(torch.zeros(3, 2), torch.ones(2))
    assert DiagNormal.has_rsample
    assert distribution.support is constraints.real_vector
    assert set(DiagNormal.arg_constraints) == {"mean", "logvar"}
    for name, constraint in DiagNormal.arg_constraints.items():
        assert constraint.check(getattr(distribution, name)).all()
    assert repr(distribution) == "DiagNormal(mean: torch.Size([3, 2]), logvar: torch.Size([3, 2]))"
    for other in (pickle.loads(pickle.dumps(distribution)), copy.deepcopy(distribution)):
        torch.testing.assert_close(other.variance, distribution.variance, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    distribution = DiagNormal(torch.zeros(3, 2, dtype=dtype), torch.zeros(3, 2, dtype=dtype))
    for result in (
        distribution.rsample(),
        distribution.log_prob(torch.zeros(3, 2, dtype=dtype)),
        distribution.entropy(),
    ):
        assert result.dtype == dtype


@pytest.mark.parametrize(
    ("mean", "logvar", "error", "message"),
    [
        (0.0, torch.zeros(2), TypeError, "DiagNormal: mean must be a floating-point tensor, got float"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), TypeError, "logvar must be a .*, got torch.int64"),
        (
            torch.zeros(2),
            torch.zeros(2, dtype=torch.float64),
            TypeError,
            "one dtype, got torch.float32 and torch.float64",
        ),
        (torch.zeros(()), torch.zeros(2), ValueError, "DiagNormal: mean must have at least one axis"),
        (torch.zeros(3), torch.zeros(2), ValueError, r"must broadcast, got \(3,\) and \(2,\)"),
        (torch.full((2,), torch.nan), torch.zeros(2), ValueError, "parameter mean"),
        (torch.zeros(2), torch.full((2,), torch.nan), ValueError, "parameter logvar"),
    ],
)
def test_bad_parameters(mean, logvar, error, message):
    with pytest.raises(error, match=message):
        DiagNormal(mean, logvar, validate_args=True)  # torch.compile turns the default off, once it was used


def test_validation_of_values():
    mean, logvar = torch.zeros(3, 2), torch.zeros(3, 2)
    nan = torch.full((3, 2), torch.nan)
    checked = DiagNormal(mean, logvar, validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        checked.log_prob(nan)
    with pytest.raises(ValueError, match="within the support"):
        checked.expand((4, 3)).log_prob(nan)
    with pytest.raises(ValueError, match="must match event_shape"):
        checked.log_prob(torch.zeros(4, 3))
    unchecked = DiagNormal(mean, logvar, validate_args=False)
    assert unchecked.log_prob(nan).isnan().all()
    assert unchecked.expand((4, 3)).log_prob(nan).isnan().all()  # expand keeps the choice
    assert DiagNormal(nan, logvar, validate_args=False).mean.isnan().all()


def test_draws_by_a_seed_are_those_of_the_operation():
    mean, logvar = tensors((5, 3), (5, 3))
    whole = DiagNormal(mean, logvar).rsample((4,), seed=7)
    torch.testing.assert_close(whole, fastvi.rsample_normal(mean, logvar, (4,), seed=7), rtol=0, atol=0)
    shard = DiagNormal(mean[2:], logvar[2:]).rsample((4,), seed=7, row_offset=2)
    torch.testing.assert_close(shard, whole[:, 2:], rtol=0, atol=0)


@pytest.mark.parametrize("shared", [False, True])
def test_divergences_of_full_covariance(shared):
    """Against PyTorch's own, between two Gaussians of full covariance."""
    mean, logvar, other, matrix = tensors((3,) if shared else (5, 3), (5, 3), (5, 3), (5, 3, 3), seed=2)
    diagonal = DiagNormal(mean, logvar)
    twin_of_it = td.MultivariateNormal(diagonal.mean, scale_tril=torch.diag_embed(diagonal.stddev))
    full = td.MultivariateNormal(other, covariance_matrix=matrix @ matrix.mT + torch.eye(3))
    inputs = (mean, logvar, other, matrix)
    for ours, theirs in (((full, diagonal), (full, twin_of_it)), ((diagonal, full), (twin_of_it, full))):
        found, expected = kl_divergence(*ours), kl_divergence(*theirs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)  # sums, products and solves of three terms
        gradients = [torch.autograd.grad(value.sum(), inputs, retain_graph=True) for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_pyro_guide():
    """Pyro's own mixin makes a guide of it: needs Pyro, which this package does not."""
    pyro = pytest.importorskip("pyro")
    mixin = pytest.importorskip("pyro.distributions.torch_distribution").TorchDistributionMixin

    class PyroDiagNormal(DiagNormal, mixin):
        pass

    mean, logvar = tensors((3, 2), (3, 2))

    def guide():
        with pyro.plate("batch", 3):
            pyro.sample("z", PyroDiagNormal(mean, logvar))

    def model():
        with pyro.plate("batch", 3):
            pyro.sample("z", pyro.distributions.Normal(mean.new_zeros(3, 2), 1.0).to_event(1))

    zeros = torch.zeros_like(mean)
    expected = kl_divergence(twin(mean, logvar), twin(zeros, zeros)).sum()
    analytic = pyro.infer.TraceMeanField_ELBO().differentiable_loss(model, guide)
    torch.testing.assert_close(analytic, expected, **ROUNDING)
    gradients = [torch.autograd.grad(loss, (mean, logvar)) for loss in (analytic, expected)]
    torch.testing.assert_close(*gradients, **ROUNDING)
    torch.manual_seed(3)
    sampled = torch.stack([pyro.infer.Trace_ELBO().differentiable_loss(model, guide) for _ in range(400)]).detach()
    standard_error = sampled.std() / math.sqrt(len(sampled))
    assert abs(sampled.mean() - expected) < 4.5 * standard_error


def test_documented_examples():
    results = doctest.testmod(fastvi.distributions)
    assert results.attempted > 0
    assert results.failed == 0
