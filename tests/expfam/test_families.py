"""Every family against sums and quadratures over its statistics, and against torch.distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvi.expfam import (
    FAMILIES,
    Gamma,
    Poisson,
    legendre,
)
from support.families import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
random_parameters = settings(max_examples=6, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def close(found, expected, relative=1e-8, absolute=1e-10):
    torch.testing.assert_close(found, expected, rtol=relative, atol=absolute)


def test_every_registered_family_has_a_case():
    assert {type(case.family) for case in CASES} == set(FAMILIES.values())


# Quadrature and enumeration


def differences(case, eta, other):
    """What is asked of a family, beside what its statistics, base measure and a quadrature give."""
    family = case.family
    log_partition, x, probability, statistics = case.integrals(eta)
    mean = probability @ statistics
    centred = statistics - mean
    log_ratio = statistics @ (eta - other) - log_partition + case.integrals(other)[0]
    log_density = statistics @ eta + family.log_base_measure(x) - log_partition
    held = probability > 0.0
    return {
        "log partition": (family.log_partition(eta), log_partition),
        "mean": (family.mean_parameters(eta), mean),
        "Fisher information": (
            family.fisher_information(eta),
            (centred * probability.unsqueeze(-1)).T @ centred,
        ),
        "entropy": (family.entropy(eta), -(probability[held] @ log_density[held])),
        "divergence": (family.kl_divergence(eta, other), probability[held] @ log_ratio[held]),
        "density": (family.log_prob(x, eta), log_density),
    }


@every_case
@random_parameters
@given(seed=seeds)
def test_sums_and_quadratures(case, seed):
    """A, mean, Fisher information, entropy, KL and density, from T and h alone."""
    for found, expected in differences(case, case.eta(seed), case.eta(seed + 1)).values():
        close(found, expected, relative=1e-8, absolute=1e-9)


def test_a_planted_mistake_is_found():
    """An entropy that forgets the base measure, and a log-partition function with a lost term."""

    class WithoutMeasure(Poisson):
        def _entropy(self, eta):
            return self._log_partition(eta) - (eta * self._mean(eta)).sum(-1)

    class WithoutRate(Gamma):
        def _log_partition(self, eta):
            return torch.lgamma(eta[..., 0])

    for wrong, what in ((WithoutMeasure, "entropy"), (WithoutRate, "log partition")):
        (right,) = (case for case in CASES if type(case.family) is wrong.__bases__[0])
        case = type(right)(wrong(), right.free, right.natural, right.rule)
        found, expected = differences(case, case.eta(1), case.eta(2))[what]
        with pytest.raises(AssertionError):
            close(found, expected)


@every_case
def test_derivatives_of_the_log_partition_function(case):
    """By central differences of A: a mean and a Fisher information that were both wrong alike would show."""
    eta, step = case.eta(3), 1e-4
    shifts = step * torch.eye(len(eta), dtype=torch.float64)

    def slopes(f):
        near = f(eta + shifts) - f(eta - shifts)
        far = f(eta + 2.0 * shifts) - f(eta - 2.0 * shifts)
        return (8.0 * near - far) / (12.0 * step)

    close(case.family.mean_parameters(eta), slopes(case.family.log_partition), 1e-8, 1e-9)
    close(case.family.fisher_information(eta), slopes(case.family.mean_parameters), 1e-8, 1e-9)


# Maps and duality


@every_case
@random_parameters
@given(seed=seeds)
def test_maps_are_inverse_to_each_other(case, seed):
    eta = torch.stack([case.eta(seed), case.eta(seed + 1)])
    family = case.family
    mu = family.mean_parameters(eta)
    back = family.natural_parameters(mu)
    expected = eta if family.minimal else eta - family.log_partition(eta).unsqueeze(-1)
    close(back, expected)
    close(family.mean_parameters(back), mu)
    close(family.log_partition(eta) + family.conjugate(mu), (eta * mu).sum(-1))


@every_case
@settings(max_examples=3, derandomize=True)
@given(seed=seeds)
def test_conjugates_of_conjugates(case, seed):
    """A** = A, and A* by Newton's method on A alone."""
    family, eta = case.family, case.eta(seed)
    mu = family.mean_parameters(eta)
    anywhere = family._any_natural(eta)
    if not family.minimal:  # A is linear in one direction: the simplex by all of its coordinates but one

        def conjugate(part):
            return family.conjugate(torch.cat([part, 1.0 - part.sum(-1, keepdim=True)], -1))

        found = legendre(conjugate, family.mean_parameters(anywhere)[:-1])(eta[:-1] - eta[-1])
        close(found + eta[-1], family.log_partition(eta))
        return
    close(legendre(family.log_partition, anywhere)(mu), family.conjugate(mu))
    close(legendre(family.conjugate, family.mean_parameters(anywhere))(eta), family.log_partition(eta))


@every_case
def test_derivatives_of_every_order(case):
    """First and second derivatives of all that is differentiable, the implicit ones among them."""
    family, eta = case.family, case.eta(5).requires_grad_()
    other = case.eta(6).requires_grad_()
    mu = family.mean_parameters(eta).detach().requires_grad_()
    functions = [
        (family.log_partition, (eta,)),
        (family.mean_parameters, (eta,)),
        (family.fisher_information, (eta,)),
        (family.entropy, (eta,)),
        (family.kl_divergence, (eta, other)),
    ]
    if family.minimal:  # else mu may only move within the simplex
        functions += [(family.natural_parameters, (mu,)), (family.conjugate, (mu,))]
    x = family.sample(eta, (3,), seed=1)
    functions.append((lambda eta: family.log_prob(x, eta), (eta,)))
    for function, arguments in functions:
        assert torch.autograd.gradcheck(function, arguments, atol=1e-5, rtol=1e-4)
        assert torch.autograd.gradgradcheck(function, arguments, atol=1e-5, rtol=1e-4)


@every_case
def test_gradients_are_what_they_stand_for(case):
    """Of A the mean, of A* the natural parameters, by autograd and by torch.func, alone and in batches."""
    family, eta = case.family, torch.stack([case.eta(7), case.eta(8)])
    mu = family.mean_parameters(eta)
    close(torch.func.vmap(torch.func.grad(family.log_partition))(eta), mu)
    close(torch.func.vmap(torch.func.jacrev(family.mean_parameters))(eta), family.fisher_information(eta))
    close(torch.func.vmap(family.entropy)(eta), family.entropy(eta))
    close(torch.func.vmap(family.kl_divergence)(eta, eta.flip(0)), family.kl_divergence(eta, eta.flip(0)))
    if family.minimal:
        close(torch.func.vmap(torch.func.grad(family.conjugate))(mu), eta)
        inverse = torch.func.vmap(torch.func.jacrev(family.natural_parameters))(mu)
        close(inverse, torch.linalg.inv(family.fisher_information(eta)), 1e-7)
