"""PIWAE: the likelihood and the prior get L_MK's gradient alone, the encoder MIWAE's alone, of the same samples."""

import types

import pytest
import torch
from torch import nn

import fastvi.objectives.piwae
from fastvi import normal_log_prob, rsample_normal
from fastvi.objectives import IWAE, MIWAE, PIWAE, Draw
from support import linear_gaussian
from support.linear_gaussian import ENCODER, assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-9}
"""Float64 sums of a few terms of size 100 and less; the encoder's are differences of two gradients."""


def all_in_both(model, x, *, seed=None):
    """A mistake: the gradients of both bounds are summed for all parameters."""
    whole, miwae = (objective(model, x, seed=seed) for objective in (IWAE(6), MIWAE(3, 2)))
    return whole + miwae - miwae.detach()


@pytest.mark.parametrize("learned_prior", [True, False])
def test_each_part_gets_its_own_gradient(learned_prior):
    """Draw by draw, with M = 3 and K = 2; and the value is L_6."""
    model, x = linear_gaussian.make(learned_prior=learned_prior)

    def assert_apart(objective):
        value, found = gradient_draws(objective, model, x, 200, seed=51)
        bound, of_likelihood = gradient_draws(IWAE(6), model, x, 200, seed=51)
        _, of_encoder = gradient_draws(MIWAE(3, 2), model, x, 200, seed=51)
        torch.testing.assert_close(value, bound, **ROUNDING)
        for name, gradient in found.items():
            wanted, other = of_likelihood[name], of_encoder[name]
            if name in ENCODER:
                wanted, other = other, wanted
            torch.testing.assert_close(gradient, wanted, **ROUNDING)
            assert (wanted - other).abs().max() > 0.01  # there is a difference to see

    assert_apart(PIWAE(3, 2))
    with pytest.raises(AssertionError):
        assert_apart(all_in_both)
    with pytest.raises(AssertionError):
        assert_apart(PIWAE(2, 3))


@pytest.mark.parametrize(("num_bounds", "num_samples"), [(2, 1), (3, 1), (1, 2)])
def test_gradients_in_expectation(num_bounds, num_samples):
    """Against L_K and L_MK by quadrature."""
    model, x = linear_gaussian.make(latent_dim=1)
    count = num_bounds * num_samples
    value, gradients = gradient_draws(PIWAE(num_bounds, num_samples), model, x, 20_000, seed=52)
    assert_expectation(value, model.importance_bound(x, count), "value")
    whole, grouped = (
        exact_gradients(lambda leaves, k=k: leaves.importance_bound(x, k), model) for k in (count, num_samples)
    )
    for name, gradient in gradients.items():
        assert_expectation(gradient, (grouped if name in ENCODER else whole)[name], name)


def test_what_reaches_the_likelihood_beside_z_counts_with_it():
    """An encoder that the likelihood reads: that way has L_MK's gradient, the way through z that of MIWAE."""
    model, x = linear_gaussian.make(latent_dim=1)
    shift = torch.full((200, 1), 0.3, dtype=torch.float64, requires_grad=True)
    rows, data = model.rows(200), x.expand(200, -1)
    reads = types.SimpleNamespace(
        prior_mean=rows.prior_mean,
        prior_logvar=rows.prior_logvar,
        encode=lambda x: (rows.encode(x)[0] + shift, rows.encoder_logvar),
        log_likelihood=lambda x, z: rows.log_likelihood(x - shift, z),
    )
    found = torch.autograd.grad(PIWAE(3, 2)(reads, data, seed=53).sum(), shift)[0]
    expected = 0.0
    for objective, way in ((IWAE(6), "beside"), (MIWAE(3, 2), "z")):
        here, there = (shift, shift.detach()) if way == "beside" else (shift.detach(), shift)
        apart = types.SimpleNamespace(
            prior_mean=rows.prior_mean,
            prior_logvar=rows.prior_logvar,
            encode=lambda x, there=there: (rows.encode(x)[0] + there, rows.encoder_logvar),
            log_likelihood=lambda x, z, here=here: rows.log_likelihood(x - here, z),
        )
        expected = expected + torch.autograd.grad(objective(apart, data, seed=53).sum(), shift)[0]
    torch.testing.assert_close(found, expected, **ROUNDING)


def test_groups_without_weight_train_the_encoder():
    """Weights of one bound may be 0 beside those of another in float32: the encoder's share of it stands all the same.

    A factor v / w on the gradient of z, as DReG has one, would lose it: w is 0 where v is not.
    """
    mean = torch.zeros(1, 1, requires_grad=True)
    model = types.SimpleNamespace(
        encode=lambda x: (mean, torch.zeros(1, 1)),
        log_likelihood=lambda x, z: -200.0 * torch.tensor([[0.0], [1.0]]) + z.sum(-1),
    )
    objectives = PIWAE(2, 1), MIWAE(2, 1)
    gradients = [torch.autograd.grad(each(model, torch.ones(1, 1), seed=54).sum(), mean)[0] for each in objectives]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs() > 0.1


@pytest.mark.parametrize("impossible", [[True, False], [True, True]])
def test_impossible_samples_spoil_no_gradient(impossible):
    model, x = linear_gaussian.make()
    rows = model.rows(2)

    class Impossible:
        prior_mean, prior_logvar, encode = rows.prior_mean, rows.prior_logvar, rows.encode

        def log_likelihood(self, x, z):
            wrong = torch.tensor(impossible).repeat(3).unsqueeze(1) & torch.tensor([True, False])
            return torch.where(wrong, -torch.inf, rows.log_likelihood(x, z))

    value = PIWAE(3, 2)(Impossible(), x.expand(2, -1), seed=55)
    assert (value == -torch.inf).tolist() == [all(impossible), False]
    for gradient in torch.autograd.grad(value.sum(), list(rows.parameters().values())):
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() > 0.0


# Models that draw for themselves, of several layers


class Chain(nn.Module):
    """Three Gaussian layers: q(z_1|x) q(z_2|z_1) q(z_3|z_2, z_1) and p(z_3) p(z_2|z_3) p(z_1|z_2) p(x|z_1, z_3)."""

    def __init__(self, batch, order):
        super().__init__()
        self.order = order
        start = torch.tensor([0.4, -0.3, 0.7, 0.2, -0.5], dtype=torch.float64)
        self.encoder = nn.Parameter(start.expand(batch, 5).clone())
        self.decoder = nn.Parameter((start.flip(0) + 0.1).expand(batch, 5).clone())

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0):
        zeros = x.new_zeros(len(x), 1)
        noise = [rsample_normal(zeros, zeros, (num_samples,), seed + i, row_offset) for i in range(3)]

        def means(of, x, first, second):
            return (
                of[:, 0:1] * x,
                torch.tanh(of[:, 1:2] * first) + of[:, 2:3],
                of[:, 3:4] * second + of[:, 4:5] * first.square(),
            )

        first = self.encoder[:, 0:1] * x + noise[0]
        second = means(self.encoder, x, first, first)[1] + noise[1]
        third = means(self.encoder, x, first, second)[2] + noise[2]
        samples = [first, second, third]
        held = self.encoder.detach() if detach_posterior else self.encoder
        posterior = sum(self.density(z, mean) for z, mean in zip(samples, means(held, x, first, second), strict=True))
        of = self.decoder
        joint = self.density(third, zeros) + self.density(second, of[:, 0:1] * third)
        joint = joint + self.density(first, torch.tanh(of[:, 1:2] * second))
        joint = joint + self.density(x, of[:, 2:3] * first + of[:, 3:4] * third + of[:, 4:5])
        return Draw([samples[place] for place in self.order], joint - posterior)

    @staticmethod
    def density(value, mean):
        value, mean = torch.broadcast_tensors(value, mean)
        return normal_log_prob(value, mean, torch.zeros_like(mean))


def of_chain(objective, order=(0, 1, 2)):
    model, x = Chain(50, order), torch.linspace(-2.0, 2.0, 50, dtype=torch.float64).unsqueeze(1)
    value = objective(model, x, seed=56)
    return value.detach(), torch.autograd.grad(value.sum(), [model.encoder, model.decoder])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_several_layers(order):
    value, (of_encoder, of_decoder) = of_chain(PIWAE(3, 2), order)
    bound, (_, wanted_decoder) = of_chain(IWAE(6))
    _, (wanted_encoder, _) = of_chain(MIWAE(3, 2))
    torch.testing.assert_close(value, bound, **ROUNDING)
    torch.testing.assert_close(of_encoder, wanted_encoder, **ROUNDING)
    torch.testing.assert_close(of_decoder, wanted_decoder, **ROUNDING)


def test_a_gradient_through_other_layers_counts_once(monkeypatch):
    """A mistake: autograd's gradients of each layer, which have the way through the next layers twice."""

    def totals(log_weights, layers, place):
        return list(torch.autograd.grad(log_weights.sum(), layers, retain_graph=True))

    monkeypatch.setattr(fastvi.objectives.piwae, "_direct_gradients", totals)
    difference = of_chain(PIWAE(3, 2))[1][0] - of_chain(MIWAE(3, 2))[1][0]
    assert difference.abs().max() > 0.1


def test_a_frozen_encoder_leaves_the_decoder():
    model, x = Chain(5, (0, 1, 2)), torch.ones(5, 1, dtype=torch.float64)
    model.encoder.requires_grad_(False)
    gradients = [torch.autograd.grad(each(model, x, seed=57).sum(), model.decoder) for each in (PIWAE(3, 2), IWAE(6))]
    torch.testing.assert_close(gradients[0], gradients[1], **ROUNDING)


def test_one_seed_of_pytorchs_generator_serves_both_draws():
    model, x = Chain(5, (0, 1, 2)), torch.ones(5, 1, dtype=torch.float64)
    torch.manual_seed(58)
    first = PIWAE(3, 2)(model, x)
    gradients = torch.autograd.grad(first.sum(), [model.encoder, model.decoder])
    torch.manual_seed(58)
    torch.testing.assert_close(PIWAE(3, 2)(model, x), first, rtol=0.0, atol=0.0)
    assert (PIWAE(3, 2)(model, x) != first).all()
    assert all(gradient.abs().max() > 0.0 for gradient in gradients)


leaf = torch.zeros(6, 2, 1, requires_grad=True)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (
            Draw(leaf, torch.zeros(6, 2), torch.zeros(6, 2)),
            "PIWAE: needs reparameterised samples, and those of SimpleNamespace.draw have a log_posterior, the score",
        ),
        (
            Draw([leaf * 1.0, leaf * 1.0], leaf.sum(-1)),
            "PIWAE: needs the samples that the log-weights are made of, and SimpleNamespace.draw returned others",
        ),
    ],
    ids=["score", "others"],
)
def test_other_samples_are_refused(drawn, message):
    model = types.SimpleNamespace(draw=lambda *_, **__: drawn)
    with pytest.raises(ValueError, match=f"^{message}$"):
        PIWAE(3, 2)(model, torch.ones(2, 1))


@pytest.mark.parametrize(("options", "name"), [((0, 5), "num_bounds"), ((5, 0), "num_samples")])
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"PIWAE: {name} must be at least 1, got 0"):
        PIWAE(*options)
