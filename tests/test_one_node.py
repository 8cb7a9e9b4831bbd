"""The terms of a bound of a VAE as one node of autograd: the same numbers as by encode, draw and log_likelihood."""

from __future__ import annotations

import pytest
import torch

import fastvi
from fastvi.models import VAE
from fastvi.objectives import ELBO, IWAE, STL, log_weights

OBJECTIVES = [
    IWAE(1),
    IWAE(6),
    ELBO(),
    ELBO(3, free_bits=0.3, beta=0.5),
    ELBO(2, analytic_kl=False),
    STL(4),
]


class Parts(VAE):
    """A VAE that is always asked part by part."""

    def encode(self, x):
        return super().encode(x)


def models(**options) -> tuple[VAE, Parts]:
    torch.manual_seed(0)
    whole = VAE(12, 3, (7, 5), **options).double()
    parts = Parts(12, 3, (7, 5), **options).double()
    parts.load_state_dict(whole.state_dict())
    return whole, parts


def images(batch: int = 9, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.bernoulli(torch.full((batch, 12), 0.4, dtype=dtype), generator=torch.Generator().manual_seed(1))


def nodes(tensor: torch.Tensor) -> set[str]:
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node.name() not in found:
            found.add(node.name())
            waiting.extend(before for before, _ in node.next_functions)
    return found


def is_one_node(tensor: torch.Tensor) -> bool:
    return "_TermsBackward" in nodes(tensor)


def gradients(objective, model, x, **options) -> list[torch.Tensor]:
    bound = objective(model, x, seed=3, **options)
    return [bound.detach(), *torch.autograd.grad(bound.mean(), list(model.parameters()))]


def assert_same(found, expected, **tolerance) -> None:
    tolerance = tolerance or {"rtol": 1e-11, "atol": 1e-12}
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, **tolerance)


@pytest.mark.parametrize("batch", [1, 9, 300])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_values_and_gradients(objective, batch):
    whole, parts = models()
    x = images(batch)
    assert is_one_node(objective(whole, x, seed=3))
    assert not is_one_node(objective(parts, x, seed=3))
    assert_same(gradients(objective, whole, x, row_offset=4), gradients(objective, parts, x, row_offset=4))


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus", "elu"])
def test_activations(activation):
    whole, parts = models(activation=activation)
    assert_same(gradients(IWAE(3), whole, images()), gradients(IWAE(3), parts, images()))


def test_float32():
    whole, parts = (model.float() for model in models())
    x = images(dtype=torch.float32)
    found, expected = gradients(IWAE(5), whole, x), gradients(IWAE(5), parts.double(), x.double())
    assert_same([each.double() for each in found], expected, rtol=1e-4, atol=1e-5)


def test_seed_of_the_generator():
    whole, parts = models()
    bounds = []
    for model in (whole, parts):
        torch.manual_seed(5)
        bounds.append(IWAE(2)(model, images()).detach())
    assert_same(*[[bound] for bound in bounds])


def test_two_forward_passes_and_two_backward_passes():
    whole, _ = models()
    x, y = images(), images(5)
    first, second = IWAE(2)(whole, x, seed=1).mean(), ELBO()(whole, y, seed=2).mean()
    parameters = list(whole.parameters())
    alone = torch.autograd.grad(IWAE(2)(whole, x, seed=1).mean(), parameters)
    of_second = torch.autograd.grad(second, parameters)
    of_first = torch.autograd.grad(first, parameters, retain_graph=True)
    again = torch.autograd.grad(first, parameters)
    assert_same(of_first, alone, rtol=0, atol=0)
    assert_same(of_first, again, rtol=0, atol=0)
    assert_same(of_second, torch.autograd.grad(ELBO()(whole, y, seed=2).mean(), parameters), rtol=0, atol=0)


@pytest.mark.parametrize("objective", [IWAE(3), ELBO(2)], ids=repr)
def test_second_derivatives(objective):
    def penalty(model):
        found = torch.autograd.grad(
            objective(model, images(), seed=3).mean(), list(model.parameters()), create_graph=True
        )
        total = sum(each.square().sum() for each in found)
        return torch.autograd.grad(total, list(model.parameters()))

    whole, parts = models()
    assert_same(penalty(whole), penalty(parts))


def test_one_of_two_results():
    """Of log-likelihood and divergence, only one may be followed back."""
    whole, parts = models()
    objective = ELBO(2, beta=0.0)
    assert_same(gradients(objective, whole, images()), gradients(objective, parts, images()))


@pytest.mark.parametrize("frozen", ["encoder", "decoder", "likelihood_head", "posterior_head"])
def test_frozen_layers(frozen):
    found = []
    for model in models():
        getattr(model, frozen).requires_grad_(False)
        IWAE(3)(model, images(), seed=3).mean().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for each, other in zip(*found, strict=True):
        assert (each is None) == (other is None)
        if each is not None:
            assert_same([each], [other])


def test_without_gradients_nothing_is_kept():
    whole, parts = models()
    with torch.no_grad():
        assert_same([log_weights(whole, images(), 4, seed=3)], [log_weights(parts, images(), 4, seed=3)])
    whole.requires_grad_(False)
    assert IWAE(2)(whole, images(), seed=3).grad_fn is None


def test_saved_tensors_pass_through_hooks():
    whole, _ = models()
    expected = gradients(IWAE(3), whole, images())
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.numpy(force=True), torch.from_numpy):
        assert_same(gradients(IWAE(3), whole, images()), expected, rtol=0, atol=0)


def test_a_parameter_changed_in_place_is_noticed():
    whole, _ = models()
    bound = IWAE(2)(whole, images(), seed=3).mean()
    with torch.no_grad():
        whole.decoder[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        bound.backward()


class OtherLikelihood(VAE):
    def log_likelihood(self, x, z):
        return super().log_likelihood(x, z) * 0.5


def with_prior(model):
    model.prior_mean = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    return model


def with_hook(model):
    model.decoder[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def with_own_encode(model):
    encode = model.encode
    model.encode = lambda x: tuple(2 * each for each in encode(x))
    return model


def with_dropout(model):
    model.encoder.insert(1, torch.nn.Dropout(0.5))
    return model


@pytest.mark.parametrize("change", [with_prior, with_hook, with_own_encode, with_dropout])
def test_what_makes_the_model_another_one(change):
    whole, parts = (change(model) for model in models())
    torch.manual_seed(0)
    found = IWAE(2)(whole, images(), seed=3)
    torch.manual_seed(0)
    assert not is_one_node(found)
    assert_same([found], [IWAE(2)(parts, images(), seed=3)])


def test_a_subclass_with_a_likelihood_of_its_own():
    whole, _ = models()
    other = OtherLikelihood(12, 3, (7, 5)).double()
    other.load_state_dict(whole.state_dict())
    found, expected = ELBO()(other, images(), seed=3), ELBO()(whole, images(), seed=3)
    assert not is_one_node(found)
    assert (found > expected).all()


def test_gradient_by_the_images():
    found = []
    for model in models():
        x = images().requires_grad_()
        found.append(torch.autograd.grad(IWAE(2)(model, x, seed=3).sum(), x))
    assert_same(*found)


def test_transforms():
    whole, parts = models()
    x = images()

    def bound(parameters):
        return torch.func.functional_call(Bounded(whole), parameters, (x,)).mean()

    parameters = {f"model.{name}": each.detach() for name, each in whole.named_parameters()}
    found = torch.func.grad(bound)(parameters)
    expected = gradients(IWAE(2), parts, x)[1:]
    assert_same([found[f"model.{name}"] for name, _ in whole.named_parameters()], expected)


class Bounded(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return IWAE(2)(self.model, x, seed=3)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_autocast(objective):
    found = []
    for model in models():
        with torch.autocast("cpu", torch.bfloat16):
            bound = objective(model.float(), images(dtype=torch.float32), seed=3)
        assert bound.dtype is torch.float32
        found.append([bound.detach(), *torch.autograd.grad(bound.mean(), list(model.parameters()))])
    assert_same(*found, rtol=1e-5, atol=1e-6)


def test_the_same_bits_for_any_number_of_threads():
    torch.manual_seed(0)
    model = VAE(784, 20, (200, 100))
    x = torch.bernoulli(torch.full((100, 784), 0.5))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(gradients(IWAE(2), model, x))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert_same(other, found[0], rtol=0, atol=0)


@pytest.mark.parametrize("objective", [IWAE(2), ELBO()], ids=repr)
def test_wrong_images_are_refused_in_the_same_words(objective):
    for x in (images()[:, :5], images() * 255, images().float(), "x"):
        words = []
        for model in (VAE(12, 3, (7, 5)).double(), Parts(12, 3, (7, 5)).double()):
            with pytest.raises((TypeError, ValueError)) as error:
                objective(model, x)
            words.append((error.type, str(error.value).replace("Parts", "VAE")))
        assert words[0] == words[1]


def test_layers_that_no_operation_takes_at_once():
    model = VAE(6, 2, (5, 4, 4, 3, 3))
    x = images()[:, :6].float()
    assert not is_one_node(IWAE(2)(model, x, seed=3))
    assert fastvi.objectives.iwae_bound(log_weights(model, x, 2, seed=3)).shape == (9,)
