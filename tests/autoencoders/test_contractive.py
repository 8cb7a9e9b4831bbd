"""The norm of an encoder's Jacobian: exact against PyTorch's own Jacobian, unbiased by random signs, differentiable."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fastvi.autoencoders import ContractiveAutoencoder, contractive_penalty, hutchinson_penalty

CODES = ("linear", "sigmoid", "tanh", "relu", "softplus", "elu")


def make(code="sigmoid", hidden_dims=None, latent_dim=4, activation="tanh", **options):
    torch.manual_seed(3)
    model = ContractiveAutoencoder(
        5, latent_dim, hidden_dims, activation, code_activation=code, error="squared", **options
    ).double()
    for layer in model.encoder:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias)
    return model


def data(rows=6):
    return torch.randn(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def explicit(encoder, x):
    """The squared norms of the whole Jacobians, row by row."""
    jacobians = [torch.autograd.functional.jacobian(encoder, row, create_graph=True) for row in x]
    return torch.stack([jacobian.square().sum() for jacobian in jacobians])


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("hidden_dims", [None, (3,), (7, 3), (4, 6, 8)], ids=str)  # narrower and wider than x
def test_penalty_is_the_norm_of_the_explicit_jacobian(code, hidden_dims):
    model, x = make(code, hidden_dims), data()
    expected = explicit(model.encoder, x)
    torch.testing.assert_close(contractive_penalty(model.encoder, x), expected, rtol=1e-10, atol=1e-14)
    assert (expected > 1e-6).sum() > len(x) // 2  # of rectified units all may rest


@pytest.mark.parametrize("hidden_dims", [None, (7,)], ids=["one layer", "two layers"])
@pytest.mark.parametrize("num_probes", [None, 2])
def test_gradients_are_those_of_finite_differences(hidden_dims, num_probes):
    model, x = make("tanh", hidden_dims, latent_dim=2), data(2)
    names = [name for name, _ in model.encoder.named_parameters()]

    def penalty(*values):
        parameters = dict(zip(names, values, strict=True))

        def encoder(inputs):
            return torch.func.functional_call(model.encoder, parameters, (inputs,))

        return contractive_penalty(encoder, x, num_probes=num_probes, seed=1)

    values = tuple(value.detach().requires_grad_() for value in model.encoder.parameters())
    assert torch.autograd.gradcheck(penalty, values)
    # The closed form has these gradients too.
    total = contractive_penalty(model.encoder, x, num_probes=num_probes, seed=1).sum()
    found = torch.autograd.grad(total, list(model.encoder.parameters()), allow_unused=True)
    expected = torch.autograd.grad(penalty(*values).sum(), values, allow_unused=True)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoder", [
    nn.Sequential(nn.Linear(5, 3), nn.Softplus(beta=2.0)),
    nn.Sequential(nn.Linear(5, 3), nn.ELU(alpha=0.5)),
    nn.Sequential(nn.Linear(5, 3), nn.Softmax(-1)),
    nn.Sequential(nn.Tanh(), nn.Linear(5, 3)),
    nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Sigmoid()),
    nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)),
    nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
    nn.Linear(5, 3, bias=False),
], ids=["softplus of beta 2", "elu of alpha 0.5", "softmax", "tanh before", "two activations", "no activation",
        "a normalisation", "no bias"])  # fmt: skip
def test_other_modules_have_their_own_jacobians(encoder):
    """The closed form is taken for no other layer than its own."""
    encoder, x = encoder.double(), data()
    torch.testing.assert_close(contractive_penalty(encoder, x), explicit(encoder, x), rtol=1e-10, atol=1e-10)


def test_signs_give_the_norm_in_the_mean():
    """The mean over all 2^Z vectors of signs is the norm itself."""
    model, x = make(hidden_dims=(7,)), data()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    probes = signs.unsqueeze(1).expand(-1, len(x), -1)
    torch.testing.assert_close(hutchinson_penalty(model.encoder, x, probes), explicit(model.encoder, x))
    single = hutchinson_penalty(model.encoder, x, probes[:1])
    assert not torch.allclose(single, explicit(model.encoder, x), rtol=0.01)


def test_one_unit_needs_one_sign():
    """A code of one value has a Jacobian of one row, whose norm any sign gives."""
    model, x = make(latent_dim=1), data()
    found = contractive_penalty(model.encoder, x, num_probes=1, seed=8)
    torch.testing.assert_close(found, explicit(model.encoder, x), rtol=1e-10, atol=1e-10)


def test_drawn_signs_are_fair_and_their_own():
    """Many probes come near the norm, by their standard error; seeds differ, and shards draw what the whole does."""
    model, x = make(hidden_dims=(7,)), data()
    exact = explicit(model.encoder, x)
    draws = torch.stack([contractive_penalty(model.encoder, x, num_probes=1, seed=seed) for seed in range(400)])
    spread = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() < 5 * spread).all()
    assert len(draws.sum(1).unique()) > 4
    many = contractive_penalty(model.encoder, x, num_probes=3, seed=5)
    torch.testing.assert_close(
        contractive_penalty(model.encoder, x[2:], num_probes=3, seed=5, row_offset=2), many[2:], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("num_probes", [None, 2])
def test_loss_is_the_error_and_the_weighted_norm(num_probes):
    model, x = make(contraction=0.7, num_probes=num_probes), data()
    norms = contractive_penalty(model.encoder, x, num_probes=num_probes, seed=4)
    expected = (model.reconstruct(x) - x).square().sum(1) + 0.7 * norms
    torch.testing.assert_close(model.loss(x, seed=4), expected)
    torch.testing.assert_close(model.figures(x)["squared norm of the encoder's Jacobian"], explicit(model.encoder, x))


def test_penalty_needs_no_gradients():
    model, x = make(hidden_dims=(7,)), data()
    for num_probes in (None, 2):
        with torch.no_grad():
            quiet = contractive_penalty(model.encoder, x, num_probes=num_probes, seed=0)
        assert not quiet.requires_grad
        torch.testing.assert_close(quiet, contractive_penalty(model.encoder, x, num_probes=num_probes, seed=0))


@pytest.mark.parametrize("make_call", [
    (lambda: contractive_penalty(nn.Linear(3, 2), torch.zeros(3)), TypeError, r"x must be a tensor of shape \(B, D\)"),
    (lambda: contractive_penalty(nn.Linear(3, 2), [[0.0]]), TypeError, "x must be a tensor of shape .*, got list"),
    (lambda: contractive_penalty(nn.Linear(3, 2), torch.zeros(1, 3), num_probes=0), ValueError,
     "contractive_penalty: num_probes must be at least 1, got 0"),
    (lambda: ContractiveAutoencoder(3, contraction=-1.0), ValueError,
     "ContractiveAutoencoder: contraction must be finite and not negative, got -1.0"),
    (lambda: ContractiveAutoencoder(3, num_probes=1.5), TypeError, "num_probes must be an int, got 1.5 of type float"),
], ids=["one row", "a list", "no probe", "negative", "half a probe"])  # fmt: skip
def test_refusals(make_call):
    call, error, words = make_call
    with pytest.raises(error, match=words):
        call()
