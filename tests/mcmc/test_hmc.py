"""HMC and MALA: detailed balance, moments, divergences, and noise that depends on the chain's number alone.

Detailed balance and what else makes a kernel right are also asked of kernels with a mistake planted, which must fail.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fastvi.mcmc import HMC, INTEGRATORS, MALA, PhasePoint, as_target, chain_noise, hamiltonian, integrate, step_seed

COVARIANCE = torch.tensor([[1.2, 0.5, 0.0], [0.5, 0.8, -0.2], [0.0, -0.2, 0.6]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
MASSES = {"identity": None, "diagonal": torch.tensor([2.0, 0.5, 1.3], dtype=torch.float64), "dense": COVARIANCE}
masses = pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES.keys())
LEVEL = 4.9
"""Standard errors that a statistic of the right mean exceeds with probability 1e-6."""


def banana(q):
    return -0.5 * (q[..., 0].square() + (q[..., 1] - 0.7 * q[..., 0].square()).square() + q[..., 2:].square().sum(-1))


def gaussian(q):
    centred = q - MEAN
    return -0.5 * (centred * torch.linalg.solve(COVARIANCE, centred.T).T).sum(-1)


def inverse_mass_matrix(mass):
    return torch.eye(3, dtype=torch.float64) if mass is None else torch.diag(mass) if mass.dim() == 1 else mass


class ByHand:
    """HMC with leapfrog steps written out in plain PyTorch, and one mistake where that is asked for."""

    def __init__(self, target, step_size, num_steps, mass, mistake=None):
        self.target, self.step_size, self.num_steps, self.mistake = target, step_size, num_steps, mistake
        self.inverse_mass = inverse_mass_matrix(mass)

    def draw(self, normal):
        """A momentum N(0, M)."""
        of_momentum = self.inverse_mass if self.mistake == "mass for inverse mass" else self.inverse_mass.inverse()
        return normal @ torch.linalg.cholesky(of_momentum).T

    def propose(self, q, p):
        gradient = self.target(q)[1]
        for _ in range(self.num_steps):
            p = p + 0.5 * self.step_size * gradient
            q = q + self.step_size * p @ self.inverse_mass
            gradient = self.target(q)[1]
            if self.mistake != "half step forgotten":
                p = p + 0.5 * self.step_size * gradient
        return q, (p if self.mistake == "momentum not negated" else -p)

    def energy(self, q, p):
        return 0.5 * (p * (p @ self.inverse_mass)).sum(-1) - self.target(q)[0]


class Fastvi(ByHand):
    """The same of a kernel of fastvi's: its proposal, the momentum negated, and its momenta."""

    def __init__(self, kernel):
        super().__init__(kernel.target, kernel.step_size, kernel.num_steps, kernel.inverse_mass)
        self.kernel = kernel

    def draw(self, normal):
        return self.kernel.metric.momentum(normal)

    def propose(self, q, p):
        kernel = self.kernel
        start = PhasePoint.at(kernel.target, q, p)
        end = integrate(
            kernel.target, start, kernel.step_size, kernel.num_steps, kernel.inverse_mass, kernel.integrator
        )
        return end.position, -end.momentum


def normals(seed, num_chains=200):
    return torch.randn(num_chains, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_detailed_balance(kernel):
    """What a trajectory with its momentum negated must do, sample by sample: be its own inverse.

    It keeps volume, so that e^-H(z) min(1, e^(H(z) - H(z'))) is the same from z to z' as back.
    """
    q, p = normals(1), kernel.draw(normals(2))
    proposed = kernel.propose(q, p)
    assert (proposed[0] - q).abs().max() > 0.1
    back = kernel.propose(*proposed)
    torch.testing.assert_close(back, (q, p), rtol=0.0, atol=1e-12)
    start, end = kernel.energy(q, p), kernel.energy(*proposed)
    forth, returned = (-torch.maximum(start, end)).exp(), (-torch.maximum(end, kernel.energy(*back))).exp()
    torch.testing.assert_close(forth, returned, rtol=1e-11, atol=0.0)


def check_momenta(kernel):
    """The density of the momenta is e^-K: so 2 K of momenta made of normals is the sum of their squares."""
    normal = normals(3)
    q, zero = normals(4), torch.zeros_like(normal)
    kinetic = kernel.energy(q, kernel.draw(normal)) - kernel.energy(q, zero)
    torch.testing.assert_close(2.0 * kinetic, normal.square().sum(-1))


def check_invariance(kernel, num_chains=20_000, num_steps=3):
    """Draws of the density stay draws of it: first and second moments, by the standard errors of independent chains."""
    q = normals(5, num_chains) @ torch.linalg.cholesky(COVARIANCE).T + MEAN
    for t in range(num_steps):
        p = kernel.draw(normals(10 + t, num_chains))
        end_q, end_p = kernel.propose(q, p)
        uniform = torch.rand(num_chains, generator=torch.Generator().manual_seed(50 + t), dtype=torch.float64)
        accepts = uniform < (kernel.energy(q, p) - kernel.energy(end_q, end_p)).exp()
        q = torch.where(accepts.unsqueeze(-1), end_q, q)
    assert largest_deviation(q) < LEVEL


def largest_deviation(q):
    """The most standard errors that any first or second moment of independent draws (N, D) is off."""
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(COVARIANCE), (q.double() - MEAN).T, upper=False)
    products = [whitened[i] * whitened[j] for i in range(3) for j in range(i)]
    squares = (whitened.square() - 1.0) / math.sqrt(2.0)
    standard = torch.cat([whitened, squares, torch.stack(products)])
    return (standard.mean(1) * math.sqrt(len(q))).abs().max().item()


CHECKS = {"balance": check_detailed_balance, "momenta": check_momenta, "invariance": check_invariance}


@masses
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_kernels_have_detailed_balance(mass, integrator):
    target = as_target(banana)
    check_detailed_balance(Fastvi(HMC(target, 0.15, 4, mass, integrator)))
    check_momenta(Fastvi(HMC(target, 0.15, 4, mass, integrator)))


@pytest.mark.parametrize(
    ("mistake", "caught_by"),
    [
        (None, ()),
        ("half step forgotten", ("balance", "invariance")),
        ("momentum not negated", ("balance",)),
        ("mass for inverse mass", ("momenta", "invariance")),
    ],
)
def test_planted_mistakes_are_caught(mistake, caught_by):
    planted = ByHand(as_target(gaussian), 0.5, 3, MASSES["diagonal"], mistake)
    for name, check in CHECKS.items():
        if name in caught_by:
            with pytest.raises(AssertionError):
                check(planted)
        else:
            check(planted)


@masses
def test_a_step_is_what_is_written_out(mass):
    """All that a step reports, against the plain formulas, from the same noise."""
    target = as_target(banana)
    kernel = HMC(target, 0.4, 4, mass)
    by_hand = ByHand(target, 0.4, 4, mass)
    state = kernel.init(normals(6))
    new_state, info = kernel.step(state, seed=3)
    p = by_hand.draw(chain_noise(3, 0, state.position)[0])
    if mass is None or mass.dim() == 1:  # a dense mass has other roots
        torch.testing.assert_close(info.start_momentum, p)
    p = info.start_momentum
    q, end_p = by_hand.propose(state.position, p)
    torch.testing.assert_close((info.proposal.position, info.proposal.momentum), (q, -end_p))
    start, end = by_hand.energy(state.position, p), by_hand.energy(q, end_p)
    torch.testing.assert_close(info.energy_error, end - start)
    torch.testing.assert_close(info.acceptance_probability, (start - end).exp().clamp_max(1.0))
    assert ((info.acceptance_probability > 0.01) & (info.acceptance_probability < 0.99)).sum() > 50
    accepted = info.is_accepted
    assert 100 < accepted.sum() < 200
    torch.testing.assert_close(info.energy, torch.where(accepted, end, start))
    chosen = torch.where(accepted.unsqueeze(-1), q, state.position)
    torch.testing.assert_close(tuple(new_state), (chosen, *target(chosen)))
    assert info.num_steps == 4
    if mass is None or mass.dim() == 1:
        point = PhasePoint(q, end_p, *target(q))
        torch.testing.assert_close(hamiltonian(point, mass), end)


def test_acceptance_has_its_probability():
    """Whether a proposal is accepted, beside its probability, over 20 000 chains: within 4.9 standard errors."""
    kernel = HMC(as_target(banana), 0.6, 3)
    _, info = kernel.step(kernel.init(normals(7, 20_000)), seed=11)
    probability = info.acceptance_probability
    for part in (probability < 0.5, probability >= 0.5):
        expected, variance = probability[part].sum(), (probability * (1.0 - probability))[part].sum()
        assert variance > 100.0
        assert abs(info.is_accepted[part].sum() - expected) < LEVEL * variance.sqrt()
    assert info.is_accepted[probability == 1.0].all()


def final_positions(kernel, num_chains, num_steps, dtype=torch.float64):
    state = kernel.init(torch.zeros(num_chains, 3, dtype=dtype))
    for t in range(num_steps):
        state, _ = kernel.step(state, step_seed(1, t))
    return state.position


@pytest.mark.parametrize(
    ("step_size", "num_steps", "mass", "integrator"),
    [
        (0.45, 3, None, "leapfrog"),
        (0.4, 3, "diagonal", "leapfrog"),
        (0.5, 3, "dense", "leapfrog"),
        (1.0, 2, None, "minimal-norm-2"),
        (1.5, 1, "dense", "minimal-norm-3"),
        (torch.linspace(0.3, 0.6, 4000).double(), 3, "dense", "leapfrog"),
    ],
)
def test_the_moments_of_a_gaussian_are_exact(step_size, num_steps, mass, integrator):
    kernel = HMC(as_target(gaussian), step_size, num_steps, MASSES.get(mass), integrator)
    assert largest_deviation(final_positions(kernel, 4000, 60)) < LEVEL


@masses
def test_mala_has_exact_moments_and_is_one_leapfrog_step_of_hmc(mass):
    target = as_target(gaussian)
    kernel, same = MALA(target, 0.7, mass), HMC(target, 0.7, 1, mass)
    state = kernel.init(normals(8))
    for ours, theirs in zip(kernel.step(state, 5)[0], same.step(state, 5)[0], strict=True):
        assert torch.equal(ours, theirs)
    assert dataclasses.replace(kernel, step_size=0.1).num_steps == 1
    assert largest_deviation(final_positions(kernel, 4000, 100)) < LEVEL


def test_malas_ratio_is_that_of_langevin_proposals():
    """q' = q + tau M^-1 grad + sqrt(2 tau) M^-1/2 xi, tau half the step's square, and Metropolis-Hastings by hand."""
    target, mass, step = as_target(banana), MASSES["diagonal"], 0.6
    kernel = MALA(target, step, mass)
    state = kernel.init(normals(9))
    _, info = kernel.step(state, 2)
    tau, end = 0.5 * step**2, info.proposal
    proposal = state.position + tau * mass * state.gradient + step * mass * info.start_momentum
    torch.testing.assert_close(end.position, proposal)

    def log_proposal(to, start, gradient):
        return -((to - start - tau * mass * gradient).square() / (4.0 * tau * mass)).sum(-1)

    log_ratio = end.log_density - state.log_density
    log_ratio += log_proposal(state.position, end.position, end.gradient)
    log_ratio -= log_proposal(end.position, state.position, state.gradient)
    torch.testing.assert_close(-info.energy_error, log_ratio)


# Places of density zero


@pytest.mark.parametrize("outside", ["minus infinity", "NaN"])
def test_chains_never_enter_where_the_density_is_zero(outside):
    """A gamma density of shape 3 by its logarithm, which does not exist below 0: moments 3 and 3 of 4000 chains."""

    def log_density(q):
        inside = 2.0 * q.log() - q  # NaN below 0
        return (inside if outside == "NaN" else torch.where(q > 0.0, inside, -math.inf)).sum(-1)

    kernel = HMC(as_target(log_density), 0.9, 4)
    state = kernel.init(torch.full((4000, 1), 2.0, dtype=torch.float64))
    num_outside = 0
    for t in range(80):
        state, info = kernel.step(state, step_seed(4, t))
        left = ~info.proposal.log_density.isfinite()
        num_outside += left.sum().item()
        assert info.is_divergent[left].all()
        assert (info.acceptance_probability[left] == 0.0).all()
        assert torch.isinf(info.energy_error[left]).all()
        assert not info.is_accepted[left].any()
        assert info.energy.isfinite().all()
        assert info.acceptance_probability.isfinite().all()
    assert num_outside > 1000
    assert (state.position > 0.0).all()
    centred = state.position - 3.0
    assert abs(centred.mean()) < LEVEL * math.sqrt(3.0 / 4000)
    # The variance of the squared deviation is the fourth moment, 3 k^2 + 6 k = 45, minus 9.
    assert abs(centred.square().mean() - 3.0) < LEVEL * math.sqrt(36.0 / 4000)


@pytest.mark.parametrize("bad", [math.inf, math.nan, -math.inf])
def test_what_is_not_finite_is_a_divergence_and_never_kept(bad):
    """Also plus infinity, which by Metropolis's rule a chain would never leave."""
    kernel = HMC(as_target(lambda q: torch.where(q > 1.0, bad, -0.5 * q.square()).sum(-1)), 0.5, 3)
    state = kernel.init(torch.zeros(500, 1))
    for t in range(10):
        state, info = kernel.step(state, step_seed(2, t))
        assert info.is_divergent[(info.proposal.position > 1.0).squeeze(-1)].all()
    assert (state.position <= 1.0).all()


def test_a_large_energy_error_is_a_divergence():
    kernel = HMC(as_target(lambda q: -0.5 * q.square().sum(-1)), 3.0, 6)
    _, info = kernel.step(kernel.init(torch.ones(50, 2)), 1)
    assert (info.energy_error > 1000.0).any()
    assert torch.equal(info.is_divergent, info.energy_error > 1000.0)
    _, info = dataclasses.replace(kernel, divergence_threshold=1e30).step(kernel.init(torch.ones(50, 2)), 1)
    assert not info.is_divergent.any()
    # Energy that falls far, as it does from a start in the tail, is no divergence.
    kernel = HMC(as_target(lambda q: -0.5 * q.square().sum(-1)), 0.1, 14)
    _, info = kernel.step(kernel.init(torch.full((50, 2), 1e3)), 1)
    assert not info.is_divergent.any()


# Noise


def rowwise(q):
    return -0.5 * (q * q * torch.linspace(0.5, 3.0, q.shape[-1], dtype=q.dtype)).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("has_mass", [False, True])
@pytest.mark.parametrize("by_chain", [False, True])
def test_a_chain_is_the_same_beside_any_number_of_chains(dtype, integrator, has_mass, by_chain):
    """To the bit, for targets that are computed row by row."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(64, 31, generator=generator).to(dtype)
    mass = torch.linspace(0.5, 1.5, 31, dtype=dtype) if has_mass else None
    longest = {"leapfrog": 0.5, "minimal-norm-2": 1.1, "minimal-norm-3": 1.9}[integrator]
    steps = torch.linspace(0.2, 1.0, 64, dtype=dtype) * longest

    def run(first, last):
        step_size = steps[first:last] if by_chain else longest
        kernel = HMC(as_target(rowwise), step_size, 3, mass, integrator)
        state = kernel.init(start[first:last])
        accepted = []
        for t in range(8):
            state, info = kernel.step(state, step_seed(9, t), first)
            accepted.append(info.is_accepted)
        return *state, torch.stack(accepted, 1)

    together = run(0, 64)
    assert 0 < together[-1].sum() < together[-1].numel()
    for first, last in ((0, 1), (5, 8), (17, 64)):
        for alone, whole in zip(run(first, last), together, strict=True):
            assert torch.equal(alone, whole[first:last])


def test_a_chain_is_the_same_for_any_number_of_threads():
    kernel = HMC(as_target(rowwise), 0.3, 3)
    state = kernel.init(torch.zeros(4096, 31))
    threads = torch.get_num_threads()
    try:
        ends = []
        for count in (1, 2):
            torch.set_num_threads(count)
            ends.append(kernel.step(state, 5)[0].position)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*ends)


def test_noise_is_normal_and_uniform():
    """Moments of 100 000 draws within 4.9 standard errors; columns, chains and seeds uncorrelated."""
    normal, uniform = chain_noise(3, 0, torch.zeros(100_000, 2, dtype=torch.float64))
    other, _ = chain_noise(4, 0, torch.zeros(100_000, 2, dtype=torch.float64))
    centred = (uniform - 0.5) * math.sqrt(12.0)
    pairs = [normal[:, 0] * normal[:, 1], normal[1:, 0] * normal[:-1, 0], normal[:, 0] * centred]
    pairs += [normal[:, 1] * centred, normal[:, 0] * other[:, 0]]
    spread = [(each.square() - 1.0) / math.sqrt(each.pow(4).mean() - 1.0) for each in (*normal.T, centred)]
    for each in (*normal.T, centred, *pairs, *spread):
        assert abs(each.mean()) * math.sqrt(len(each)) < LEVEL
    assert uniform.min() > 0.0
    assert uniform.max() <= 1.0
