"""BernoulliLogits, LinearBernoulli, DiagLaplace and categorical_log_prob against PyTorch's, and against mathematics."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints, kl_divergence

from fastvi.distributions import BernoulliLogits, DiagLaplace, DiagNormal, LinearBernoulli, categorical_log_prob, seeded
from fastvi.objectives import ELBO

ROUNDING: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}
"""Two orders of the same float64 operations."""


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def independent(base: td.Distribution) -> td.Independent:
    return td.Independent(base, 1)


def plain_bernoulli(logits: Tensor) -> td.Independent:
    return independent(td.Bernoulli(logits=logits))


def plain_linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> td.Independent:
    return plain_bernoulli(torch.nn.functional.linear(h, weight, bias))


def plain_laplace(loc: Tensor, log_scale: Tensor) -> td.Independent:
    return independent(td.Laplace(loc, log_scale.exp()))


Pair = tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]
PAIRS: dict[str, Pair] = {
    "Bernoulli": (BernoulliLogits, plain_bernoulli, [(4, 3, 5)]),
    "Bernoulli vector": (BernoulliLogits, plain_bernoulli, [(5,)]),
    "linear": (LinearBernoulli, plain_linear, [(4, 3, 2), (5, 2), (5,)]),
    "linear without bias": (LinearBernoulli, plain_linear, [(4, 3, 2), (5, 2)]),
    "Laplace": (DiagLaplace, plain_laplace, [(4, 3, 5), (4, 3, 5)]),
    "Laplace, broadcast": (DiagLaplace, plain_laplace, [(4, 1, 5), (3, 1)]),
}
pairs = pytest.mark.parametrize("name", PAIRS)


def pair(name: str) -> tuple[Any, Any, list[Tensor]]:
    ours, theirs, shapes = PAIRS[name]
    parameters = tensors(*shapes)
    return ours(*parameters), theirs(*parameters), parameters


def outcome(distribution: Any) -> Tensor:
    """A value without the first axis of the batch, over which it broadcasts."""
    shape = (distribution.batch_shape + distribution.event_shape)[1:] or distribution.event_shape
    (value,) = tensors(shape, seed=1)
    if isinstance(distribution, BernoulliLogits):
        return (value > 0).double()
    return value.detach()


def assert_same(found: Tensor, expected: Tensor, parameters: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, **ROUNDING)
    gradients = [
        torch.autograd.grad(value.sum(), parameters, retain_graph=True, materialize_grads=True)
        for value in (found, expected)
    ]
    torch.testing.assert_close(*gradients, **ROUNDING)


@pairs
def test_equal_to_independent_ones(name: str) -> None:
    """Shapes, moments, entropy and density, with gradients."""
    ours, theirs, parameters = pair(name)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.has_rsample == theirs.has_rsample
    value = outcome(ours)
    for statistic in (lambda d: d.mean, lambda d: d.variance, lambda d: d.entropy(), lambda d: d.log_prob(value)):
        assert_same(statistic(ours), statistic(theirs), parameters)
    for statistic in (lambda d: d.mode, lambda d: d.stddev):
        torch.testing.assert_close(statistic(ours), statistic(theirs), **ROUNDING)
    if isinstance(ours, DiagLaplace):
        torch.testing.assert_close(ours.scale, theirs.base_dist.scale, **ROUNDING)


@pairs
def test_expanded(name: str) -> None:
    ours, theirs, parameters = pair(name)
    shape = (2, *ours.batch_shape)
    expanded, expected = ours.expand(shape), theirs.expand(shape)
    assert (type(expanded), expanded.batch_shape) == (type(ours), expected.batch_shape)
    value = outcome(ours)
    assert_same(expanded.log_prob(value), expected.log_prob(value), parameters)
    assert_same(expanded.entropy(), expected.entropy(), parameters)
    assert expanded.sample((7,)).shape == (7, *shape, *ours.event_shape)


@pairs
def test_copies_and_declarations(name: str) -> None:
    ours, _, parameters = pair(name)
    assert all(constraint.check(getattr(ours, p)).all() for p, constraint in ours.arg_constraints.items())
    assert bool(ours.support.check(ours.sample()).all())
    assert repr(ours).startswith(type(ours).__name__ + "(")
    detached = type(ours)(*(parameter.detach() for parameter in parameters))  # PyTorch copies leaves alone
    for other in (pickle.loads(pickle.dumps(detached)), copy.deepcopy(detached)):
        torch.testing.assert_close(other.variance, ours.variance.detach(), **ROUNDING)


def both_ways(ours: Any, other: Any, theirs: Any, their_other: Any, parameters: list[Tensor]) -> None:
    expected = kl_divergence(theirs, their_other)
    for p, q in ((ours, other), (ours, their_other), (theirs, other)):
        assert_same(kl_divergence(p, q), expected, parameters)


def test_divergences() -> None:
    logits, other_logits, h, weight = tensors((4, 1, 5), (3, 5), (3, 2), (5, 2))
    both_ways(
        BernoulliLogits(logits),
        BernoulliLogits(other_logits),
        plain_bernoulli(logits.expand(4, 3, 5)),
        plain_bernoulli(other_logits.expand(4, 3, 5)),
        [logits, other_logits],
    )
    linear = kl_divergence(LinearBernoulli(h, weight), BernoulliLogits(other_logits))
    assert_same(linear, kl_divergence(plain_linear(h, weight), plain_bernoulli(other_logits)), [h, weight])
    loc, log_scale, other_loc, other_log_scale = parameters = tensors((4, 1, 5), (4, 1, 5), (3, 5), (3, 5), seed=3)
    both_ways(
        DiagLaplace(loc, log_scale),
        DiagLaplace(other_loc, other_log_scale),
        plain_laplace(loc, log_scale),
        plain_laplace(other_loc, other_log_scale),
        parameters,
    )
    normal = independent(td.Normal(other_loc, torch.exp(0.5 * other_log_scale)))
    for other in (DiagNormal(other_loc, other_log_scale), normal):
        found = kl_divergence(DiagLaplace(loc, log_scale), other)
        assert_same(found, kl_divergence(plain_laplace(loc, log_scale), normal), parameters)
        assert_same(
            kl_divergence(other, DiagLaplace(loc, log_scale)), normal_laplace(normal, loc, log_scale), parameters
        )


def normal_laplace(normal: td.Independent, loc: Tensor, log_scale: Tensor) -> Tensor:
    """PyTorch's divergence, which does not broadcast."""
    shape = torch.broadcast_shapes(normal.base_dist.loc.shape, loc.shape)
    expanded = independent(td.Normal(normal.base_dist.loc.expand(shape), normal.base_dist.scale.expand(shape)))
    return kl_divergence(expanded, plain_laplace(loc.expand(shape), log_scale.expand(shape)))


def test_divergence_of_a_normal_from_a_laplace_distribution() -> None:
    """Against quadrature, also far away, where erf is 1 to rounding, and for events that do not fit."""
    for mean, logvar, loc, log_scale in ((0.3, 0.2, -0.5, 0.1), (0.0, -1.0, 0.0, 0.4), (40.0, 0.0, -3.0, 1.0)):
        p, q = scipy.stats.norm(mean, math.exp(0.5 * logvar)), scipy.stats.laplace(loc, math.exp(log_scale))
        places = sorted({p.ppf(1e-300) - 10.0, loc, mean, p.isf(1e-300) + 10.0})
        expected = sum(
            scipy.integrate.quad(lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), a, b, epsabs=1e-12)[0]
            for a, b in itertools.pairwise(places)
        )
        ours = [torch.tensor([each], dtype=torch.float64) for each in (mean, logvar, loc, log_scale)]
        found = kl_divergence(DiagNormal(*ours[:2]), DiagLaplace(*ours[2:])).item()
        assert found == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="events must have one shape"):
        kl_divergence(DiagNormal(TWO, TWO), DiagLaplace(torch.zeros(3), torch.zeros(3)))


def test_divergence_of_neighbours_keeps_its_digits() -> None:
    """KL = s^2 / 2 + O(s^3) for scales that differ by s, and d^2 / 2 for medians: in float32, where s^2 is 1e-8."""
    zero, tiny = torch.zeros(1), torch.full((1,), 1e-4)
    for p in (DiagLaplace(zero, tiny), DiagLaplace(tiny, zero)):
        assert kl_divergence(p, DiagLaplace(zero, zero)).item() == pytest.approx(0.5e-8, rel=4e-3)
    assert kl_divergence(DiagLaplace(zero, tiny), DiagLaplace(zero, tiny)).item() == 0.0


def test_certainty() -> None:
    sure = BernoulliLogits(torch.tensor([math.inf, -math.inf]))
    assert sure.entropy().item() == 0.0
    assert kl_divergence(sure, sure).item() == 0.0
    assert kl_divergence(BernoulliLogits(torch.zeros(2)), sure).item() == math.inf
    assert sure.log_prob(torch.tensor([1.0, 0.0])).item() == 0.0
    assert sure.sample((50,)).mean(0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("other", [td.Gumbel(torch.zeros(2), 1.0), td.Exponential(torch.ones(2))])
@pytest.mark.parametrize("ours", [BernoulliLogits(torch.zeros(2)), DiagLaplace(torch.zeros(2), torch.zeros(2))])
def test_unknown_divergences_are_refused(ours: Any, other: Any) -> None:
    for p, q in ((ours, independent(other)), (independent(other), ours)):
        with pytest.raises(NotImplementedError, match=rf"between a {type(ours).__name__} and Independent.* not known"):
            kl_divergence(p, q)


def test_laplace_draws_have_the_distribution() -> None:
    """Kolmogorov and Smirnov's test of 20000 draws at the level 0.001, and the gradient along the path."""
    loc, log_scale = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, -1.0], dtype=torch.float64)
    loc.requires_grad_()
    log_scale.requires_grad_()
    draws = DiagLaplace(loc, log_scale).rsample((20_000,), seed=11)
    for column, place, scale in zip(draws.detach().T, loc.tolist(), log_scale.exp().tolist(), strict=True):
        assert scipy.stats.kstest(column.numpy(), scipy.stats.laplace(place, scale).cdf).pvalue > 0.001
    (upstream,) = tensors((20_000, 2), seed=5)
    gradients = torch.autograd.grad(draws, (loc, log_scale), upstream)
    expected = (upstream.sum(0), (upstream * (draws - loc)).sum(0))  # dz / dlog b = z - m
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)


def test_a_laplace_posterior() -> None:
    """The ELBO with its divergence, at draws that are known; a shard of the batch has its own rows of the whole."""
    loc, log_scale, weight = tensors((4, 3), (4, 3), (5, 3))

    class Model(torch.nn.Module):
        prior_mean = prior_logvar = None

        def encode(self, x: Tensor) -> DiagLaplace:
            rows = x[:, 0].long()
            return DiagLaplace(loc[rows], log_scale[rows])

        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            return LinearBernoulli(z, weight).log_prob((x > 1).double())

    x = torch.arange(4.0, dtype=torch.float64).unsqueeze(-1).expand(4, 5)
    posterior, standard = DiagLaplace(loc, log_scale), independent(td.Normal(torch.zeros_like(loc), 1.0))
    z = posterior.rsample((6,), seed=3)
    expected = Model().log_likelihood(x, z).mean(0) - kl_divergence(plain_laplace(loc, log_scale), standard)
    objective = ELBO(6)
    assert_same(objective(Model(), x, seed=3), expected, [loc, log_scale, weight])
    torch.testing.assert_close(objective(Model(), x[2:], seed=3, row_offset=2), expected[2:], **ROUNDING)


def test_bernoulli_draws_have_the_probabilities() -> None:
    """Each of 20000 draws; 4.5 standard errors."""
    logits = torch.tensor([[-4.0, -0.5, 0.0], [0.3, 2.0, 6.0]])
    draws = BernoulliLogits(logits).sample((20_000,), seed=3)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    p = torch.sigmoid(logits)
    assert ((draws.mean(0) - p).abs() < 4.5 * (p * (1.0 - p) / 20_000).sqrt()).all()
    assert (draws.flatten(1).T.corrcoef() - torch.eye(6)).abs().max() < 4.5 / math.sqrt(20_000)


@pytest.mark.parametrize("name", ["Bernoulli", "linear", "Laplace"])
def test_draws_follow_their_seed_and_their_row(name: str) -> None:
    """A shard of the batch draws what it would have drawn in the whole."""
    kind, _, _ = PAIRS[name]
    shapes = {"Bernoulli": [(6, 5)], "linear": [(6, 2), (5, 2), (5,)], "Laplace": [(6, 5), (6, 5)]}[name]
    parameters = tensors(*shapes)
    shard = [p[2:] if len(p) == 6 else p for p in parameters]

    def draw(*given: Tensor, **options: int) -> Tensor:
        distribution = kind(*given)
        found: Tensor = (distribution.rsample if distribution.has_rsample else distribution.sample)((4,), **options)
        return found.detach()

    whole = draw(*parameters, seed=7)
    torch.testing.assert_close(draw(*shard, seed=7, row_offset=2), whole[:, 2:], rtol=0, atol=0)
    assert not torch.equal(draw(*parameters, seed=8), whole)
    take = seeded.rsample if kind is DiagLaplace else seeded.sample
    torch.testing.assert_close(take(kind(*parameters), 4, 7, 0).detach(), whole, rtol=0, atol=0)
    torch.manual_seed(1)
    first = kind(*parameters).sample()
    torch.manual_seed(1)
    assert torch.equal(kind(*parameters).sample(), first)
    assert not first.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(3, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype)
    for each in (BernoulliLogits(zeros), DiagLaplace(zeros, zeros), LinearBernoulli(zeros, ones[:2, :], ones[0])):
        for result in (each.sample(), each.log_prob(ones), each.entropy(), each.variance):
            assert result.dtype == dtype


def test_the_likelihood_makes_no_logits() -> None:
    h, weight, bias = tensors((3, 2), (5, 2), (5,))
    decoder = LinearBernoulli(h, weight, bias)
    decoder.log_prob(torch.ones(3, 5, dtype=torch.float64))
    assert decoder._made is None
    decoder.sample()
    assert decoder.entropy().requires_grad  # though the logits were first made for a sample, without a gradient


def test_no_elements() -> None:
    for each in (
        BernoulliLogits(torch.zeros(0, 2)),
        DiagLaplace(torch.zeros(0, 2), torch.zeros(2)),
        LinearBernoulli(torch.zeros(0, 3), torch.zeros(2, 3)),
    ):
        assert each.sample((4,)).shape == (4, 0, 2)
        assert each.log_prob(torch.zeros(4, 0, 2)).shape == (4, 0)
        assert each.entropy().shape == (0,)


def test_validation_of_values() -> None:
    zeros = torch.zeros(3, 2)
    for checked in (
        BernoulliLogits(zeros, validate_args=True),
        LinearBernoulli(zeros, torch.zeros(2, 2), validate_args=True),
        DiagLaplace(zeros, zeros, validate_args=True).expand((3,)),
    ):
        wrong = torch.full((3, 2), math.nan if isinstance(checked, DiagLaplace) else 0.5)
        with pytest.raises(ValueError, match="within the support"):
            checked.log_prob(wrong)
    assert BernoulliLogits(zeros, validate_args=False).log_prob(torch.full((3, 2), 0.5)).shape == (3,)


NAN = torch.full((2,), math.nan)
TWO = torch.zeros(2)
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: BernoulliLogits(0.0), TypeError, "BernoulliLogits: logits must be a floating-point tensor, got float"),
    (lambda: BernoulliLogits(torch.zeros(())), ValueError, "BernoulliLogits: logits must have at least one axis"),
    (lambda: BernoulliLogits(NAN, True), ValueError, "parameter logits"),
    (lambda: DiagLaplace(TWO, TWO.double()), TypeError, "one dtype, got torch.float32 and torch.float64"),
    (lambda: DiagLaplace(TWO, torch.zeros(3)), ValueError, r"loc and log_scale must broadcast, got \(2,\) and \(3,\)"),
    (lambda: DiagLaplace(TWO, NAN, True), ValueError, "parameter log_scale"),
    (lambda: LinearBernoulli(TWO, torch.zeros(5, 3)), ValueError, r"weight \(D, H\) and bias .*, got h \(2,\), weight"),
    (lambda: LinearBernoulli(TWO, torch.zeros(5, 2), TWO), ValueError, r"got h \(2,\), weight \(5, 2\), bias \(2,\)"),
    (lambda: LinearBernoulli(TWO, torch.zeros(5, 2).double()), TypeError, "one dtype, got h torch.float32, weight"),
    (lambda: LinearBernoulli(TWO, torch.zeros(2, 2), NAN, True), ValueError, "bias without NaN"),
    (lambda: LinearBernoulli(TWO, "w"), TypeError, "LinearBernoulli: weight must be a floating-point tensor, got str"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_parameters(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("of_x", "of_logits"), [((3, 4), (3, 4, 6)), ((3, 4), (5, 3, 4, 6)), ((5, 3, 4), (4, 6))])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_classes(of_x: tuple[int, ...], of_logits: tuple[int, ...], dtype: torch.dtype) -> None:
    (logits,) = tensors(of_logits)
    x = torch.randint(6, of_x, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = td.Categorical(logits=logits).log_prob(x.long()).sum(-1)
    assert_same(categorical_log_prob(x, logits, validate_args=True), expected, [logits])


def test_second_derivatives_of_classes() -> None:
    (logits,) = tensors((2, 3, 4))
    x = torch.tensor([[0, 1, 2], [3, 3, 0]])
    assert torch.autograd.gradgradcheck(lambda given: categorical_log_prob(x, given), (logits,))


def test_classes_out_of_range() -> None:
    """Also the number that PyTorch's loss takes for no class at all: a planted copy gives it probability one."""
    logits, x = torch.zeros(3, 4), torch.tensor([0, -100, 1])
    planted = -torch.nn.functional.cross_entropy(logits, x, reduction="none").sum()
    assert planted.item() == pytest.approx(-2 * math.log(4))
    with pytest.raises(RuntimeError, match="out of bounds"):
        categorical_log_prob(x, logits)
    with pytest.raises(ValueError, match=r"categorical_log_prob: x must lie in 0 to 3, got -100 to 1$"):
        categorical_log_prob(x, logits, validate_args=True)


@pytest.mark.parametrize(
    ("x", "logits", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 4), TypeError, "x must be a tensor of integers, got torch.float32"),
        ([1], torch.zeros(3, 4), TypeError, "x must be a tensor of integers, got list"),
        (torch.zeros(3).bool(), torch.zeros(3, 4), TypeError, "x must be a tensor of integers, got torch.bool"),
        (torch.zeros(3).long(), torch.zeros(3, 4).long(), TypeError, "logits must be a floating-point .* torch.int64"),
        (torch.zeros(3).long(), torch.zeros(4), ValueError, r"logits \(..., D, C\), got \(3,\) and \(4,\)"),
        (torch.zeros(3).long(), torch.zeros(2, 4), ValueError, r"must broadcast .*, got \(3,\) and \(2, 4\)"),
    ],
)
def test_bad_classes(x: Any, logits: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^categorical_log_prob: .*{message}"):
        categorical_log_prob(x, logits)


def test_supports() -> None:
    assert BernoulliLogits.support.event_dim == 1
    assert DiagLaplace.support is constraints.real_vector


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (BernoulliLogits(torch.zeros(3)), BernoulliLogits(torch.zeros(1))),
        (BernoulliLogits(torch.zeros(1)), plain_bernoulli(torch.zeros(3))),
        (DiagLaplace(torch.zeros(3), torch.zeros(3)), DiagLaplace(torch.zeros(1), torch.zeros(1))),
        (DiagLaplace(torch.zeros(1), torch.zeros(1)), DiagNormal(torch.zeros(3), torch.zeros(3))),
        (DiagNormal(torch.zeros(1), torch.zeros(1)), DiagLaplace(torch.zeros(3), torch.zeros(3))),
        (DiagNormal(torch.zeros(1), torch.zeros(1)), DiagNormal(torch.zeros(3), torch.zeros(3))),
    ],
)
def test_a_divergence_between_vectors_of_other_lengths_is_refused(p, q):
    with pytest.raises(ValueError, match=r"^kl_divergence of .*: events must have one shape, got torch.Size"):
        kl_divergence(p, q)
