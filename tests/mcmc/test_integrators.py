"""Leapfrog trajectories: reversible, volume-preserving, exact on a quadratic, differentiable twice."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch.autograd.functional import jacobian

from fastvi.mcmc import PhasePoint, hamiltonian, leapfrog, with_gradient
from fastvi.models import VAE, HamiltonianPosterior
from fastvi.objectives.latent import GaussianPrior


def banana(q, bend=0.7):
    """A log density whose gradient is not linear."""
    return -0.5 * (q[..., 0].square() + (q[..., 1] - bend * q[..., 0].square()).square() + q[..., 2:].square().sum(-1))


def decoder_target():
    """The log joint density of a VAE in float64, its gradient by one node."""
    torch.manual_seed(0)
    model, x = HamiltonianPosterior(VAE(12, 3, (7, 6)).double(), 3), torch.rand(4, 12, dtype=torch.float64).round()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model._target(x, GaussianPrior(None, None))


TARGETS = {"banana": with_gradient(banana), "decoder": decoder_target()}
targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
STEPS = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)
INVERSE_MASS = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)
SCALES = torch.tensor([0.9, 0.7, 0.8, 0.95, 1.1], dtype=torch.float64)


def some_points():
    """One sample of four examples."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


def trajectory(target, q, v, step_size=STEPS, inverse_mass=INVERSE_MASS, scales=None):
    return leapfrog(target, PhasePoint.at(target, q, v), step_size, 5, inverse_mass, scales)


def assert_reversible(move):
    """Back from the end with the momentum negated, and that negated again: the start, to 1e-12."""
    q, v = some_points()
    end_q, end_v = move(q, v)
    assert (end_q - q).abs().max() > 0.1
    back_q, back_v = move(end_q, -end_v)
    torch.testing.assert_close((back_q, -back_v), (q, v), rtol=0.0, atol=1e-12)


def assert_volume(move, expected=0.0):
    """The logarithm of the Jacobian's determinant, for each point by itself, to 1e-12."""
    q, v = some_points()

    def stacked(both):
        return torch.cat(move(*both.chunk(2, -1)), -1)

    whole = jacobian(stacked, torch.cat([q, v], -1))
    for b in range(4):
        log_determinant = torch.linalg.slogdet(whole[0, b, :, 0, b, :])[1].item()
        assert log_determinant == pytest.approx(expected, abs=1e-12)


@targets
def test_a_trajectory_is_reversible_and_keeps_volume(target):
    def move(q, v):
        return trajectory(target, q, v)[:2]

    assert_reversible(move)
    assert_volume(move)


@targets
def test_scales_change_the_volume_by_their_product(target):
    def move(q, v):
        return trajectory(target, q, v, scales=SCALES)[:2]

    assert_volume(move, 3 * SCALES.log().sum().item())


def one_wrong_step(target, q, v, full_momentum, tempering):
    """pythae's leapfrog: the position moves by the momentum from before the half kick, and tempering is forgotten."""
    gradient = target(q)[1]
    half = v + 0.5 * STEPS * gradient
    q = q + STEPS * (v if full_momentum else half)
    v = half + 0.5 * STEPS * target(q)[1]
    return q, v if tempering == "forgotten" else v * 0.8


@targets
def test_planted_mistakes_are_found(target):
    with pytest.raises(AssertionError):
        assert_reversible(partial(one_wrong_step, target, full_momentum=True, tempering="forgotten"))
    with pytest.raises(AssertionError):
        assert_volume(partial(one_wrong_step, target, full_momentum=True, tempering="forgotten"))
    with pytest.raises(AssertionError):
        assert_volume(partial(one_wrong_step, target, full_momentum=False, tempering="forgotten"), 3 * math.log(0.8))
    # The same without the mistakes.
    assert_volume(partial(one_wrong_step, target, full_momentum=False, tempering="kept"), 3 * math.log(0.8))
    assert_reversible(partial(one_wrong_step, target, full_momentum=False, tempering="forgotten"))


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_on_a_quadratic_it_is_a_rotation(num_steps):
    """cos(theta) = 1 - eps^2 omega^2 / 2; Neal 2011, section 4.2."""
    omega, step = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64), 0.3
    target = with_gradient(lambda q: -0.5 * (omega * q).square().sum(-1))
    q, v = some_points()
    end = leapfrog(target, PhasePoint.at(target, q, v), step, num_steps)
    angle = num_steps * torch.arccos(1.0 - 0.5 * (step * omega).square())
    shape = omega * torch.sqrt(1.0 - 0.25 * (step * omega).square())
    expected = torch.cos(angle) * q + torch.sin(angle) * v / shape, torch.cos(angle) * v - torch.sin(angle) * shape * q
    torch.testing.assert_close(end[:2], expected, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(end[2:], target(end.position), rtol=0.0, atol=1e-12)


@targets
def test_the_energy_is_kept_to_second_order(target):
    q, v = some_points()
    errors = []
    for steps in (8, 16, 32):
        start = PhasePoint.at(target, q, v)
        end = leapfrog(target, start, 0.8 / steps, steps, INVERSE_MASS)
        errors.append((hamiltonian(end, INVERSE_MASS) - hamiltonian(start, INVERSE_MASS)).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert 3.0 < coarse / fine < 5.0  # 4 in the limit of small steps


def test_a_number_is_a_step_size():
    q, v = some_points()
    number = trajectory(TARGETS["banana"], q, v, step_size=0.2, inverse_mass=None)
    ones = torch.ones(3, dtype=torch.float64)
    tensor = trajectory(TARGETS["banana"], q, v, step_size=0.2 * ones[0], inverse_mass=ones)
    torch.testing.assert_close(number, tensor, rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("scales", [None, SCALES], ids=["plain", "tempered"])
def test_a_gradient_is_taken_once_at_each_position(scales):
    seen = []

    def target(q):
        seen.append(q)
        return TARGETS["banana"](q)

    trajectory(target, *some_points(), scales=scales)
    assert len(seen) == 6


# Derivatives


def ends(q, v, step_size, inverse_mass, bend, scales):
    target = with_gradient(partial(banana, bend=bend))
    end = leapfrog(target, PhasePoint.at(target, q, v), step_size, 2, inverse_mass, scales)
    return (*end, hamiltonian(end, inverse_mass))


@pytest.mark.parametrize("tempered", [False, True])
@pytest.mark.parametrize("step_shape", [(), (3,), (2, 1)])
def test_first_and_second_derivatives(tempered, step_shape):
    generator = torch.Generator().manual_seed(2)
    q, v = (torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    step = 0.1 + 0.2 * torch.rand(step_shape, generator=generator, dtype=torch.float64)
    bend = torch.tensor(0.7, dtype=torch.float64)
    inputs = [q, v, step, INVERSE_MASS.clone(), bend, *([SCALES[:2].clone()] if tempered else [])]
    inputs = [each.requires_grad_() for each in inputs]

    def function(*arguments):
        return ends(*arguments, *(() if tempered else (None,)))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_derivatives_through_a_decoder():
    """Those by the parameters of the log density, for which the node of the decoder has derivatives of its own."""
    torch.manual_seed(3)
    model, x = HamiltonianPosterior(VAE(3, 2, (2,)).double(), 2), torch.rand(1, 3, dtype=torch.float64).round()
    weights = [
        parameter for name, parameter in model.model.named_parameters() if name.startswith(("decoder", "likeli"))
    ]
    q, v = (torch.randn(1, 1, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    step = torch.tensor([0.2, 0.3], dtype=torch.float64, requires_grad=True)

    def function(q, v, step, *_):
        target = model._target(x, GaussianPrior(None, None))
        return tuple(leapfrog(target, PhasePoint.at(target, q, v), step, 1))

    assert torch.autograd.gradcheck(function, (q, v, step, *weights))
    assert torch.autograd.gradgradcheck(function, (q, v, step, *weights))


def test_without_second_order_terms_the_gradient_is_wrong():
    """A planted mistake: the gradient of the log density taken for a constant."""
    q, v = some_points()
    step = STEPS.clone().requires_grad_()

    def without(q):
        value, gradient = TARGETS["banana"](q)
        return value, gradient.detach()

    def total(target, step):
        return trajectory(target, q, v, step).log_density.sum()

    (found,) = torch.autograd.grad(total(TARGETS["banana"], step), step)
    (planted,) = torch.autograd.grad(total(without, step), step)
    width = 1e-5
    for i, shift in enumerate(width * torch.eye(3, dtype=torch.float64)):
        with torch.no_grad():
            difference = total(TARGETS["banana"], STEPS + shift) - total(TARGETS["banana"], STEPS - shift)
        expected = (difference / (2.0 * width)).item()
        assert found[i].item() == pytest.approx(expected, rel=1e-7)
        assert planted[i].item() != pytest.approx(expected, rel=1e-3)


def test_nothing_is_recorded_without_gradients():
    q, v = some_points()
    expected = trajectory(TARGETS["banana"], q, v)
    with torch.no_grad():
        found = trajectory(TARGETS["banana"], q, v)
    assert not any(each.requires_grad for each in found)
    torch.testing.assert_close(tuple(found), tuple(each.detach() for each in expected), rtol=0.0, atol=1e-14)


def test_under_transforms():
    q, v = some_points()
    step = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def total(step):
        return leapfrog(TARGETS["banana"], PhasePoint.at(TARGETS["banana"], q, v), step, 2).log_density.sum()

    (expected,) = torch.autograd.grad(total(step), step)
    torch.testing.assert_close(torch.func.grad(total)(step.detach()), expected, rtol=1e-12, atol=0.0)


# Errors


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (lambda q: q.detach().sum(-1), "the log density has no gradient by the position"),
        (lambda q: torch.ones(1, 4, requires_grad=True), "the log density has no gradient by the position"),
        (lambda q: q.sum(), r"the log density of positions \(1, 4, 3\) must have the shape \(1, 4\), got \(\)"),
    ],
)
def test_a_density_that_is_none_is_refused(density, message):
    with pytest.raises(ValueError, match=message):
        PhasePoint.at(with_gradient(density), *some_points())


def test_wrong_arguments_are_refused():
    start = PhasePoint.at(TARGETS["banana"], *some_points())
    with pytest.raises(ValueError, match="leapfrog: num_steps must be positive, got 0"):
        leapfrog(TARGETS["banana"], start, 0.1, 0)
    with pytest.raises(ValueError, match=r"momentum_scales must have the shape \(3,\), one for each step, got \(5,\)"):
        leapfrog(TARGETS["banana"], start, 0.1, 3, momentum_scales=SCALES)
