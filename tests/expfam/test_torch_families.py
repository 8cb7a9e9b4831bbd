"""Agreement with torch.distributions, both ways, and parameters that are near the ends of their domains."""

import math

import pytest
import torch
from torch.distributions import kl_divergence

from fastvi.expfam import (
    Bernoulli,
    Binomial,
    BoltzmannMachine,
    Categorical,
    Dirichlet,
    Exponential,
    Gamma,
    Gaussian,
    Ising,
    Laplace,
    MultivariateGaussian,
    Poisson,
    VonMises,
    make_family,
)
from support.families import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
DOUBLE = torch.float64


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


@every_case
def test_torch_distributions_both_ways(case):
    family, eta = case.family, torch.stack([case.eta(seed) for seed in (11, 12, 13)])
    distribution = family.to_distribution(eta)
    assert distribution.batch_shape == (3,)
    back = family.from_distribution(distribution)
    torch.testing.assert_close(back, eta if family.minimal else eta - family.log_partition(eta).unsqueeze(-1))
    x = family.sample(eta, (4,), seed=2)
    if isinstance(family, (Ising, BoltzmannMachine)):  # there PyTorch's distribution is one of the states' numbers
        places = (x.unsqueeze(-2) == family.states).all(-1).long().argmax(-1)
        torch.testing.assert_close(family.log_prob(x, eta), distribution.log_prob(places))
    else:
        torch.testing.assert_close(family.log_prob(x, eta), distribution.log_prob(x))
    if not isinstance(family, (VonMises, Poisson, Binomial)):  # PyTorch has no entropy of these
        torch.testing.assert_close(family.entropy(eta), distribution.entropy())
    other = torch.stack([case.eta(seed) for seed in (14, 15, 16)])
    if not isinstance(family, VonMises):
        expected = kl_divergence(distribution, family.to_distribution(other))
        torch.testing.assert_close(family.kl_divergence(eta, other), expected)


@every_case
def test_single_precision(case):
    """Results in float32 are those in float64, to float32's digits."""
    family, eta = case.family, case.eta(17)
    single = eta.float()
    exact = single.double()
    for name in ("log_partition", "mean_parameters", "fisher_information", "entropy"):
        found = getattr(family, name)(single)
        assert found.dtype == torch.float32
        expected = getattr(family, name)(exact)
        torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-4 * float(expected.abs().max()))
    mu = family.mean_parameters(exact).float()
    if family.minimal:
        found = family.natural_parameters(mu)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), family.natural_parameters(mu.double()), rtol=2e-3, atol=2e-3)
    assert family.sample(single, (5,), seed=1).dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize(
    ("family", "eta", "tolerance"),
    [
        *((Gamma(), [shape, -3.0], 1e-7) for shape in (1e-6, 1e-3, 1.0, 1e4, 1e7)),
        *((Dirichlet(3), [size, 2.0 * size, 5.0 * size], 1e-7) for size in (1e-6, 1e-2, 1.0, 1e3, 1e6)),
        (Dirichlet(3), [1e-3, 1e3, 1.0], 1e-8),
        (Dirichlet(3), [1e-3, 1e-1, 1e6], 1e-6),
        *((VonMises(), [0.6 * size, -0.8 * size], 1e-7) for size in (1e-8, 0.05, 59.9, 60.1, 1e5, 1e7)),
        (Gaussian(), [1e6, -0.5], 1e-8),
        (Ising(2), [0.0, 0.0, 8.0], 1e-7),
    ],
)
def test_ends_of_the_domains(family, eta, tolerance):
    """Maps there and back; the tolerance is the rounding of the mean parameters times the condition of the map."""
    eta = double(*eta)
    torch.testing.assert_close(
        family.natural_parameters(family.mean_parameters(eta)), eta, rtol=tolerance, atol=tolerance
    )


def test_large_means_keep_their_digits():
    """Variance 1 about a million: densities and divergences are not differences of numbers of the size 1e12."""
    eta, other = double(1e6, -0.5), double(1e6 + 0.001, -0.5)
    standard = torch.distributions.Normal(double(0.0)[0], double(1.0)[0])
    gaussian = Gaussian()
    expected = standard.log_prob(double(0.25)[0])
    assert gaussian.log_prob(double(1e6 + 0.25)[0], eta).item() == pytest.approx(expected.item(), rel=1e-12)
    assert gaussian.entropy(eta).item() == pytest.approx(standard.entropy().item(), rel=1e-12)
    assert gaussian.kl_divergence(eta, other).item() == pytest.approx(0.5e-6, rel=1e-6)
    vector = MultivariateGaussian(1)
    assert vector.log_prob(double(1e6 + 0.25), eta).item() == pytest.approx(expected.item(), rel=1e-12)
    assert vector.entropy(eta).item() == pytest.approx(standard.entropy().item(), rel=1e-12)
    assert vector.kl_divergence(eta, other).item() == pytest.approx(0.5e-6, rel=1e-6)


def test_the_slope_of_the_ratio_of_bessel_functions():
    """Against 50 digits, on both sides of the ends of the two series."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        for size in (1e-6, 0.0499, 0.0501, 1.0, 10.0, 59.9, 60.1, 1e4):
            kappa = mpmath.mpf(size)
            ratio = mpmath.besseli(1, kappa) / mpmath.besseli(0, kappa)
            fisher = VonMises().fisher_information(double(size, 0.0))
            assert fisher[0, 0].item() == pytest.approx(float(1 - ratio / kappa - ratio**2), rel=2e-11)
            assert fisher[1, 1].item() == pytest.approx(float(ratio / kappa), rel=1e-14)


def test_the_entropy_of_large_rates():
    """Sum and series, on both sides of the rate where they meet."""
    for rate in (0.001, 999.0, 1001.0, 20000.0):
        x = torch.arange(int(rate + 15.0 * math.sqrt(rate) + 60.0), dtype=DOUBLE)
        eta = double(rate).log()
        log_prob = Poisson().log_prob(x, eta)
        expected = -(log_prob.exp() * log_prob).sum()
        torch.testing.assert_close(Poisson().entropy(eta), expected, rtol=1e-11, atol=1e-11)


def test_certain_bits_and_categories():
    """A*(mu) on the boundary, where there are no natural parameters: 0 for what is certain."""
    assert Bernoulli().conjugate(double(0.0)).item() == 0.0
    assert Categorical(3).conjugate(double(0.0, 1.0, 0.0)).item() == 0.0
    assert Categorical(3).conjugate(double(0.0, 0.5, 0.5)).item() == pytest.approx(-math.log(2.0))
    assert Binomial(4).conjugate(double(4.0)).item() == 0.0
    assert Poisson().conjugate(double(0.0)).item() == 0.0
    for family in (Bernoulli(), Binomial(4), Poisson()):  # the natural parameter goes to minus infinity
        mu = double(0.0).requires_grad_()
        assert torch.autograd.grad(family.conjugate(mu), mu)[0].item() == -math.inf
    for family, mu in (
        (Bernoulli(), [1.1]),
        (Poisson(), [-0.1]),
        (Categorical(2), [0.5, 0.6]),
        (Exponential(), [0.0]),
        (Gaussian(), [1.0, 1.0]),
        (VonMises(), [0.8, 0.6001]),
        (Dirichlet(2), [-0.1, -0.1]),
        (Gamma(), [0.0, 1.0]),
    ):
        assert family.conjugate(double(*mu)).item() == math.inf


def test_enumerated_families_on_the_boundary():
    """Two spins that are always equal are one spin; those that are always up have no entropy."""
    ising = Ising(2)
    up = 0.7
    entropy = -up * math.log(up) - (1.0 - up) * math.log(1.0 - up)
    mu = double(2.0 * up - 1.0, 2.0 * up - 1.0, 1.0)
    assert ising.conjugate(mu).item() == pytest.approx(-entropy, rel=1e-10)
    assert ising.conjugate(torch.ones(3, dtype=DOUBLE)).item() == pytest.approx(0.0, abs=1e-12)
    assert ising.conjugate(double(0.9, 0.9, -0.5)).item() == math.inf
    inside = ising.mean_parameters(double(0.1, 0.2, 0.3))
    found = ising.conjugate(torch.stack([mu, inside]))
    torch.testing.assert_close(found, torch.stack([ising.conjugate(mu), ising.conjugate(inside)]))


def test_ising_on_a_triangle():
    """Couplings J alone: six states at energy -J, two at 3 J."""
    ising = Ising(3)
    eta = ising.natural_from_couplings(torch.zeros(3, dtype=DOUBLE), torch.full((3, 3), 0.5, dtype=DOUBLE))
    low, high = 6.0 * math.exp(-0.5), 2.0 * math.exp(1.5)
    assert ising.log_partition(eta).item() == pytest.approx(math.log(low + high), rel=1e-14)
    expected = (high - low / 3.0) / (low + high)
    fields, couplings = ising.fields_and_couplings(ising.mean_parameters(eta))
    torch.testing.assert_close(fields, torch.zeros(3, dtype=DOUBLE), rtol=0.0, atol=1e-15)
    torch.testing.assert_close(couplings, expected * (1.0 - torch.eye(3, dtype=DOUBLE)))
    assert ising.probabilities(eta).sum().item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("restricted", [False, True])
def test_visible_units_of_a_boltzmann_machine(restricted):
    """Hidden states summed out by hand; the gradient is the clamped phase less the free one."""
    machine = BoltzmannMachine(2, 2, restricted)
    assert machine.num_statistics == (8 if restricted else 10)
    generator = torch.Generator().manual_seed(4)
    eta = torch.randn(machine.num_statistics, generator=generator, dtype=DOUBLE).requires_grad_()
    probabilities = machine.probabilities(eta)
    for v in (double(0.0, 1.0), double(1.0, 1.0)):
        beside = (machine.states[:, :2] == v).all(-1)
        log_prob = machine.visible_log_prob(v, eta)
        torch.testing.assert_close(log_prob, probabilities[beside].sum().log())
        torch.testing.assert_close(
            machine.hidden_probabilities(v, eta), probabilities[beside] / probabilities[beside].sum()
        )
        (gradient,) = torch.autograd.grad(log_prob, eta)
        torch.testing.assert_close(
            gradient, machine.clamped_mean_parameters(v, eta) - machine.mean_parameters(eta.detach())
        )
    both = machine.visible_log_prob(torch.stack([double(0.0, 1.0), v]), eta.detach())
    torch.testing.assert_close(both[1], log_prob.detach())


def test_matrices_of_a_gaussian_vector():
    family = MultivariateGaussian(3)
    root = torch.tensor([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.3, 0.7, 1.5]], dtype=DOUBLE)
    mean, covariance = double(1.0, -2.0, 0.5), root @ root.T
    eta = family.natural_from_precision(mean, torch.linalg.inv(covariance))
    torch.testing.assert_close(family.mean_parameters(eta), family.mean_from_covariance(mean, covariance))
    found_mean, precision = family.mean_and_precision(eta)
    torch.testing.assert_close(found_mean, mean)
    torch.testing.assert_close(precision @ covariance, torch.eye(3, dtype=DOUBLE))
    statistics = family.statistics(mean)
    assert statistics[3:].tolist() == [1.0, -2.0, 4.0, 0.5, -1.0, 0.25]


@every_case
def test_batches_broadcast(case):
    """Rows beside components, as a mixture has them: (5, 1) and (3,), and (2, 5, 1) and (2, 1, 3)."""
    family, eta = case.family, torch.stack([case.eta(seed) for seed in (18, 19, 20)])
    x = family.sample(eta[0], (5,), seed=4)
    expected = torch.stack([family.log_prob(x, each) for each in eta], -1)
    torch.testing.assert_close(family.log_prob(x.unsqueeze(1), eta), expected)
    both = family.log_prob(torch.stack([x, x]).unsqueeze(2), torch.stack([eta, eta.flip(0)]).unsqueeze(1))
    torch.testing.assert_close(both, torch.stack([expected, expected.flip(-1)]))
    assert family.log_prob(x[:0], eta[0]).shape == (0,)


def test_families_by_their_names():
    assert make_family("ising", nodes=3) == Ising(3)
    assert make_family("laplace", location=-1.0) == Laplace(-1.0)
    with pytest.raises(ValueError, match=r"make_family: name must be one of bernoulli, categorical, .*, got 'normal'"):
        make_family("normal")
    with pytest.raises(TypeError, match="make_family: 'dirichlet' needs size"):
        make_family("dirichlet")


def test_torch_has_no_uniform_von_mises_distribution():
    message = r"^VonMises: the concentration must be positive in torch.distributions.VonMises, .* got 0 at \[1\]$"
    with pytest.raises(ValueError, match=message):
        VonMises().to_distribution(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"^VonMises: the concentration must be positive .* got 0$"):
        VonMises().to_distribution(torch.zeros(2))
