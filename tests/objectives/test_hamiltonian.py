"""Hamiltonian variational inference against what is known of it on the linear-Gaussian model, where it is a rotation.

Log-weights are quadratic there in the noise of the start and of the momenta, so that their expectation is known to
rounding from as many draws as a quadratic has coefficients.
"""

import itertools
import math

import pytest
import torch
from torch import nn

from fastvi import normal_log_prob, rsample_normal
from fastvi.mcmc import PhasePoint, hamiltonian, leapfrog
from fastvi.models import VAE, HamiltonianPosterior, ReverseNetwork
from fastvi.models.hamiltonian import MOMENTUM_STREAM
from fastvi.objectives import ELBO, IWAE, STL, Draw, draw
from fastvi.objectives.latent import posterior_of, prior_of
from fastvi.seeding import mix_seed
from support import linear_gaussian
from support.hamiltonian import configurations, shaken
from support.linear_gaussian import assert_expectation


def noise_of(model, batch, count, seed, row_offset=0):
    """The noise of z_0 and of each momentum, a list of (count, B, Z)."""
    zeros = torch.zeros(batch, model.latent_dim, dtype=torch.float64)
    seeds = [seed, *(mix_seed(seed, MOMENTUM_STREAM, t) for t in range(model.num_transitions))]
    return [rsample_normal(zeros, zeros, (count,), each, row_offset) for each in seeds]


def exact_mean(model, x, seed=3):
    """The expectation of a log-weight that is a quadratic of the noise."""
    noise = torch.cat(noise_of(model, 1, 200, seed), -1)[:, 0]
    width = noise.shape[1]
    pairs = list(itertools.combinations_with_replacement(range(width), 2))
    columns = [torch.ones(200, 1).double(), noise, torch.stack([noise[:, i] * noise[:, j] for i, j in pairs], 1)]
    design = torch.cat(columns, 1)
    with torch.no_grad():
        values = draw(model, x, 200, seed=seed).log_weights
    found = torch.linalg.lstsq(design, values).solution
    torch.testing.assert_close(design @ found, values, rtol=0.0, atol=1e-8)  # a quadratic indeed
    # E n = 0, E n_i n_j = 1 where i = j.
    return (found[0] + sum(found[1 + width + k] for k, (i, j) in enumerate(pairs) if i == j)).item()


# The closed form


class Rotation:
    """The mean and variance of z_t and v_t on a linear-Gaussian model whose posterior is diagonal."""

    def __init__(self, model, x, steps, num_leapfrogs):
        base = model.with_exact_posterior()
        self.centre, self.precision = base.encode(x)[0], torch.exp(-base.encoder_logvar)
        omega = self.precision.sqrt()
        angle = num_leapfrogs * torch.arccos(1.0 - 0.5 * steps.square() * self.precision)
        self.shape = omega * torch.sqrt(1.0 - 0.25 * steps.square() * self.precision)
        self.cos, self.sin = torch.cos(angle), torch.sin(angle)

    def move(self, mean, variance):
        """The next z's mean and variance, and r's slope, mean at the next z's mean, and variance."""
        after = self.cos.square() * variance + (self.sin / self.shape).square()
        cross = self.cos * self.sin * (1.0 / self.shape - self.shape * variance)
        of_v = (self.sin * self.shape).square() * variance + self.cos.square()
        v_mean = -self.sin * self.shape * (mean - self.centre)
        slope = cross / after
        return self.centre + self.cos * (mean - self.centre), after, slope, v_mean, of_v - cross * slope

    def divergence(self, mean, variance):
        """KL of N(mean, variance) from the posterior."""
        ratio = variance * self.precision
        return 0.5 * ((mean - self.centre).square() * self.precision + ratio - 1.0 - torch.log(ratio)).sum(-1)


class Affine(nn.Module):
    """The optimal reverse model of a transition."""

    def __init__(self, z_mean, slope, v_mean, variance):
        super().__init__()
        self.z_mean, self.slope, self.v_mean, self.variance = z_mean, slope, v_mean, variance

    def forward(self, arrival):
        mean = self.v_mean + self.slope * (arrival.position - self.z_mean)
        return mean, torch.log(self.variance).expand_as(mean)


def with_optimal_reverse(model, x, count=1, **options):
    """A wrapper with step sizes of its own for each transition, its optimal reverse models, and L_aux."""
    wrapped = HamiltonianPosterior(model, model.encoder_bias.shape[-1], count, **options).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    mean, logvar = model.encode(x)
    variance, reverse, rotation = torch.exp(logvar), [], None
    for t in range(count):
        steps = wrapped._scaled(wrapped.step_sizes[t], logvar)
        rotation = Rotation(model, x, steps, wrapped.num_leapfrogs)
        mean, variance, *of_reverse = rotation.move(mean, variance)
        reverse.append(Affine(mean.detach(), *(each.detach() for each in of_reverse)))
    wrapped.reverse = nn.ModuleList(reverse)
    return wrapped, model.log_marginal(x) - rotation.divergence(mean, variance)


@pytest.mark.parametrize("mass", ["unit", "learned", "posterior"])
@pytest.mark.parametrize("per_dimension", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_the_bound_is_its_closed_form(count, per_dimension, mass):
    """L_aux = log p - KL(q_T || posterior) with the optimal reverse models."""
    model, x = linear_gaussian.make()
    wrapped, expected = with_optimal_reverse(
        model, x, count, step_size=0.3, step_per_dimension=per_dimension, mass=mass, num_leapfrogs=3
    )
    assert exact_mean(wrapped, x) == pytest.approx(expected.item(), abs=1e-9)
    assert model.elbo(x).item() + 0.01 < expected.item() < model.log_marginal(x).item()


def test_a_quarter_turn_forgets_the_encoder():
    """At L theta = pi/2 only the discretisation is left: KL = (r - 1 - log r) / 2, r = 1 / (1 - eps^2 omega^2 / 4)."""
    model, x = linear_gaussian.make(latent_dim=1)
    omega = torch.exp(-0.5 * model.with_exact_posterior().encoder_logvar).item()
    step = math.sqrt(2.0 * (1.0 - math.cos(math.pi / 6.0))) / omega
    wrapped = HamiltonianPosterior(model, 1, 1, 3, step, 2.0 * step, mass="unit").double()
    wrapped.step_logits.data.zero_()
    mean, logvar = model.encode(x)
    rotation = Rotation(model, x, torch.tensor(step).double(), 3)
    z_mean, _, *of_reverse = rotation.move(mean, torch.exp(logvar))
    wrapped.reverse = nn.ModuleList([Affine(z_mean, *of_reverse)])
    ratio = 1.0 / (1.0 - 0.25 * (step * omega) ** 2)
    expected = model.log_marginal(x).item() - 0.5 * (ratio - 1.0 - math.log(ratio))
    assert exact_mean(wrapped, x) == pytest.approx(expected, abs=1e-6)


def test_a_half_turn_from_the_posterior_weighs_all_alike():
    """At L theta = pi the posterior is mirrored, v turned round: each log-weight is log p(x), and STL has no noise."""
    model, x = linear_gaussian.make()
    model = model.with_exact_posterior()
    steps = torch.exp(0.5 * model.encoder_logvar)[0]  # eps omega = 1, so that theta = pi / 3
    wrapped = HamiltonianPosterior(model.rows(5), 2, 1, 3, max_step_size=2.0, mass="unit").double()
    wrapped.step_logits.data.copy_(torch.logit(0.5 * steps))
    rows = x.expand(5, -1)
    value = STL(2)(wrapped, rows, seed=1)
    torch.testing.assert_close(value, model.log_marginal(rows), rtol=0.0, atol=1e-10)
    leaves = wrapped.model.parameters()
    encoder = [leaves[name] for name in linear_gaussian.ENCODER]
    for gradient in torch.autograd.grad(value.sum(), encoder):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("objective", [ELBO(2, analytic_kl=False), STL(2)], ids=str)
def test_the_gradient_is_that_of_the_closed_form(objective):
    """By the envelope theorem the optimal reverse model may be held fixed."""
    model, x = linear_gaussian.make()
    rows = model.rows(20_000)
    wrapped, _ = with_optimal_reverse(model, x, step_size=0.2, num_leapfrogs=3)
    wrapped.model = rows
    leaves = rows.parameters()
    value = objective(wrapped, x.expand(20_000, -1), seed=8)
    gradients = torch.autograd.grad(value.sum(), tuple(leaves.values()))

    def closed_form(leaf):
        mean, logvar = leaf.encode(x)
        rotation = Rotation(leaf, x, wrapped._scaled(wrapped.step_sizes[0], logvar), 3)
        mean, variance, *_ = rotation.move(mean, torch.exp(logvar))
        return leaf.log_marginal(x) - rotation.divergence(mean, variance)

    expected = linear_gaussian.exact_gradients(closed_form, model)
    for name, gradient in zip(leaves, gradients, strict=True):
        if name != "weight":  # whose change makes the posterior one that is not diagonal
            assert_expectation(gradient, expected[name], name)
            assert expected[name].abs().max() > 0.005


# Without a reverse model the dynamics are worth nothing


def test_the_fixed_reverse_model_loses_the_error_of_the_energy():
    """Log-weights are those of the encoder's samples less the change of the Hamiltonian."""
    model, x = linear_gaussian.make()
    wrapped = HamiltonianPosterior(model, 2, 2, step_size=0.4).double()
    drawn = draw(wrapped, x, 6, seed=2)
    target = wrapped._target(x, prior_of(model, x, posterior_of(model, x)))
    mean, logvar = model.encode(x)
    start, *momenta = noise_of(wrapped, 1, 6, 2)
    point = PhasePoint.at(target, mean + torch.exp(0.5 * logvar) * start, start)
    expected = point.log_density - normal_log_prob(point.position, mean, logvar)
    for t, momentum in enumerate(momenta):
        before = point._replace(momentum=momentum)
        point = leapfrog(target, before, wrapped._scaled(wrapped.step_sizes[t], logvar), 4)
        expected = expected - (hamiltonian(point) - hamiltonian(before))
    torch.testing.assert_close(drawn.samples, point.position, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(drawn.log_weights, expected, rtol=0.0, atol=1e-10)


def test_its_gain_vanishes_with_the_step_size():
    model, x = linear_gaussian.make()
    elbo, gains = model.elbo(x).item(), []
    for step in (0.1, 0.05, 0.025, 1e-4):
        wrapped = HamiltonianPosterior(model, 2, 2, step_size=step).double()
        gains.append(abs(exact_mean(wrapped, x) - elbo))
    assert gains[-1] < 1e-8
    for coarse, fine in itertools.pairwise(gains[:3]):
        # Of the fourth order: the energy's error is of the square of the step, and a trajectory of four steps shrinks.
        assert 11.0 < coarse / fine < 20.0


def test_a_learned_reverse_model_comes_to_the_optimum():
    """From N(0, I), by Adam on L_aux, to within 0.01 nat of the closed form with the optimal one."""
    torch.manual_seed(5)
    model, x = linear_gaussian.make()
    wrapped, optimum = with_optimal_reverse(model, x, step_size=0.3)
    wrapped.reverse = nn.ModuleList([ReverseNetwork(2, 8)]).double()
    optimizer = torch.optim.Adam(wrapped.reverse.parameters(), lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        loss = -ELBO(64, analytic_kl=False)(wrapped, x, seed=step).mean()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.05 * (1.0 - step / 150)
    with torch.no_grad():
        values = draw(wrapped, x, 40_000, seed=1_000).log_weights[:, 0]
    assert values.mean().item() == pytest.approx(optimum.item(), abs=0.01 + 4.5 * values.std().item() / 200.0)
    assert values.std().item() / 200.0 < 0.002
    assert optimum.item() > model.elbo(x).item() + 0.1


# The mean weight is p(x), whatever the dynamics


@configurations
def test_the_mean_weight_is_the_evidence(options):
    model, x = linear_gaussian.make()
    wrapped = shaken(model, 2, options)
    with torch.no_grad():
        log_weights = draw(wrapped, x, 100_000, seed=9).log_weights[:, 0]
    exact = model.log_marginal(x)[0]
    assert_expectation(torch.exp(log_weights - exact), 1.0, "w / p(x)")
    assert log_weights.mean() < exact


@configurations
def test_gradients_are_those_of_finite_differences(options):
    """By every parameter: step sizes, mass, tempering, reverse model, encoder and decoder."""
    torch.manual_seed(8)
    vae = VAE(6, 2, (4,)).double()
    wrapped, x = shaken(vae, 2, options), torch.rand(3, 6, dtype=torch.float64).round()
    parameters = dict(wrapped.named_parameters())

    def value():
        return IWAE(2)(wrapped, x, seed=4).sum()

    gradients = torch.autograd.grad(value(), list(parameters.values()))
    width = 1e-5
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 3)):
            kept, ends = flat[i].item(), []
            with torch.no_grad():
                for shift in (width, -width):
                    flat[i] = kept + shift
                    ends.append(value().item())
            flat[i] = kept
            expected = (ends[0] - ends[1]) / (2.0 * width)
            assert gradient.view(-1)[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-7), (name, i)


# The Hamiltonian VAE as public code has it, with the mistakes that were found there


class PlainHVAE:
    """One transition, quadratic tempering, no reverse model, written out; ``mistake`` plants one of pythae's."""

    def __init__(self, wrapped, x, mistake=None):
        self.wrapped, self.x, self.mistake = wrapped, x, mistake
        self.latent_dim, self.num_transitions = wrapped.latent_dim, 1

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0):
        wrapped, mistake = self.wrapped, self.mistake
        mean, logvar = wrapped.model.encode(x)
        start, noise = noise_of(wrapped, len(x), num_samples, seed, row_offset)
        target = wrapped._target(x, prior_of(wrapped.model, x, posterior_of(wrapped.model, x)))

        def gradient_at(z):
            gradient = target(z)[1]
            return gradient.detach() if mistake == "no second-order terms" else gradient

        scale = nn.functional.softplus(logvar) if mistake == "softplus in the sample" else torch.exp(0.5 * logvar)
        z = mean + scale * start
        log_q = normal_log_prob(z, mean, logvar)
        beta = torch.sigmoid(wrapped.tempering_logits[0, 0]).square()
        v = first = noise / beta.sqrt()
        step, steps = wrapped._scaled(wrapped.step_sizes[0], logvar), wrapped.num_leapfrogs
        root = 1.0 / beta.sqrt()
        for i in range(1, steps + 1):
            half = v + 0.5 * step * gradient_at(z)
            z = z + step * (v if mistake == "full momentum" else half)
            v = half + 0.5 * step * gradient_at(z)
            next_root = (1.0 - 1.0 / beta.sqrt()) * (i / steps) ** 2 + 1.0 / beta.sqrt()
            v = v if mistake == "tempering forgotten" else v * (next_root / root)
            root = next_root
        zeros = torch.zeros_like(mean)
        # log q(v) - log |det| = log N(v; 0, 1 / beta) - (d / 2) log beta, which is that of the noise.
        used = v if mistake == "the last momentum twice" else first
        log_v = normal_log_prob(used, zeros, zeros - torch.log(beta))
        log_determinant = 0.5 * self.latent_dim * torch.log(beta)
        log_weights = target(z)[0] + normal_log_prob(v, zeros, zeros) - log_q - log_v + log_determinant
        return Draw(z, log_weights)


def assert_mean_weight(model, x, evidence):
    with torch.no_grad():
        log_weights = draw(model, x, 100_000, seed=9).log_weights[:, 0]
    assert_expectation(torch.exp(log_weights - evidence), 1.0, "w / p(x)")


def assert_gradient_by_step(model, wrapped, x):
    value = draw(model, x, 3, seed=5).log_weights.sum()
    (gradient,) = torch.autograd.grad(value, wrapped.step_logits)
    ends, width, kept = [], 1e-5, wrapped.step_logits.data.clone()
    with torch.no_grad():
        for shift in (width, -width):
            wrapped.step_logits.data[0, 0] = kept[0, 0] + shift
            ends.append(draw(model, x, 3, seed=5).log_weights.sum().item())
    wrapped.step_logits.data.copy_(kept)
    assert gradient[0, 0].item() == pytest.approx((ends[0] - ends[1]) / (2.0 * width), rel=1e-6)


def hvae():
    model, x = linear_gaussian.make()
    options = {"tempering": "quadratic", "reverse": None, "step_size": 0.3, "inverse_temperature": 0.6}
    return shaken(model, 2, options), x, model.log_marginal(x)[0]


def test_it_is_the_hamiltonian_vae():
    wrapped, x, evidence = hvae()
    written = PlainHVAE(wrapped, x)
    torch.testing.assert_close(draw(wrapped, x, 5, seed=6)[:2], draw(written, x, 5, seed=6)[:2], rtol=0.0, atol=1e-10)
    assert_mean_weight(written, x, evidence)
    assert_gradient_by_step(written, wrapped, x)


@pytest.mark.parametrize(
    "mistake", ["full momentum", "tempering forgotten", "softplus in the sample", "the last momentum twice"]
)
def test_planted_mistakes_of_the_weights_are_found(mistake):
    wrapped, x, evidence = hvae()
    with pytest.raises(AssertionError, match="standard errors"):
        assert_mean_weight(PlainHVAE(wrapped, x, mistake), x, evidence)


def test_planted_missing_second_order_terms_are_found():
    wrapped, x, _ = hvae()
    with pytest.raises(AssertionError):
        assert_gradient_by_step(PlainHVAE(wrapped, x, "no second-order terms"), wrapped, x)
