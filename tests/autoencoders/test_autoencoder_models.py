"""The models: what their losses are made of, tied weights, sparse supports, seeds and shards, classifiers."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal, Poisson

from fastvi.autoencoders import (
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    KSparseAutoencoder,
    SparseAutoencoder,
    TransposedLinear,
    classifier,
    k_sparse,
)
from fastvi.autoencoders.errors import ERRORS
from fastvi.models import MODELS, VAE, DataShape, make_model_options
from fastvi.models.likelihoods import LIKELIHOODS, LOGVAR_RANGE
from fastvi.objectives import ELBO, Reconstruction, make_objective

NAMES = (
    "autoencoder",
    "sparse-autoencoder",
    "k-sparse-autoencoder",
    "contractive-autoencoder",
    "denoising-autoencoder",
)
every_model = pytest.mark.parametrize("name", NAMES)


def make(name, **options):
    torch.manual_seed(0)
    sizes = {"latent_dim": 12, "hidden_dims": (7,)} | ({"num_active": 3} if name.startswith("k-") else {})
    return make_model_options(name, **{**sizes, **options}).build(DataShape((4, 4)), torch.full((16,), 0.3))


def images(rows=9):
    return torch.rand(rows, 16, generator=torch.Generator().manual_seed(1))


@every_model
@pytest.mark.parametrize("options", [{}, {"hidden_dims": None}, {"error": "squared"}, {"error": "gaussian"}], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_shapes_and_gradients(name, options, tied):
    """Every parameter gets a finite gradient from the objective, and values do not depend on who else is there."""
    model, x = make(name, tied=tied, **options), images()
    assert model.code(x).shape == (9, 12)
    assert model.decode(model.code(x)).shape == model.reconstruct(x).shape == (9, 16)
    loss = Reconstruction()(model, x, seed=3)
    assert loss.shape == (9,)
    loss.mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    shard = make_objective("reconstruction")(model, x[4:], seed=3, row_offset=4)
    torch.testing.assert_close(shard, loss[4:])
    figures = model.figures(x, seed=3)
    assert all(values.shape == (9,) for values in figures.values())
    torch.testing.assert_close(figures["squared error"], (model.reconstruct(x) - x).square().sum(1))


@every_model
def test_objective_is_one_graph_for_the_compiler(name):
    model, x = make(name), images()
    compiled = torch.compile(lambda x: Reconstruction()(model, x, seed=3), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model.loss(x, seed=3))


@every_model
def test_options_are_the_arguments_of_the_class(name):
    """The defaults of both agree, so that the command line and Python make the same model."""
    entry = MODELS[name]
    options = entry()
    built, made = options.build(DataShape((8, 8))), entry.model(64)
    assert str(built) == str(made)
    plain = {key: value for key, value in vars(made).items() if not key.startswith("_")}
    assert plain == {key: value for key, value in vars(built).items() if not key.startswith("_")}
    assert options.default_objective == "reconstruction"


DISTRIBUTIONS = {
    "bernoulli": lambda parts: Bernoulli(logits=parts[0], validate_args=False),
    "gaussian": lambda parts: Normal(parts[0].sigmoid(), (0.5 * parts[1].clamp(*LOGVAR_RANGE)).exp()),
    "laplace": lambda parts: Laplace(parts[0].sigmoid(), parts[1].clamp(-4.0, 1.0).exp()),
    "poisson": lambda parts: Poisson(parts[0].exp(), validate_args=False),
}
"""Of what the decoder gives, as PyTorch has them."""


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("error", ["squared", *DISTRIBUTIONS])
def test_errors_are_squared_or_minus_log_likelihoods(error, tied):
    model = make("autoencoder", error=error, tied=tied).double()
    x = images().double().round() if error == "poisson" else images().double()
    z = model.code(x)
    parts = model.head(model.decoder(z)).chunk(1 if error == "squared" else LIKELIHOODS[error].parts, -1)
    expected = (x - parts[0]).square() if error == "squared" else -DISTRIBUTIONS[error](parts).log_prob(x)
    torch.testing.assert_close(model.reconstruction_error(x, z), expected.sum(1))
    torch.testing.assert_close(model.reconstruction_error(x), expected.sum(1))
    torch.testing.assert_close(model.loss(x), expected.sum(1))
    mean = parts[0] if error == "squared" else DISTRIBUTIONS[error](parts).mean
    torch.testing.assert_close(model.reconstruct(x), mean)


@pytest.mark.parametrize("error", ERRORS)
def test_training_begins_at_the_mean_of_the_data(error):
    """With weights of zero the reconstruction is the data's mean."""
    mean = torch.linspace(0.1, 0.9, 16)
    for tied in (False, True):
        model = Autoencoder(16, 3, (5,), error=error, tied=tied, data_mean=mean)
        with torch.no_grad():
            for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
                parameter.zero_()
            if not tied:
                model.head.weight.zero_()
        torch.testing.assert_close(model.reconstruct(torch.rand(2, 16)), mean.expand(2, 16), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden_dims", [None, (7, 6)])
def test_tied_weights_are_the_same_numbers_in_memory(hidden_dims):
    model = Autoencoder(16, 5, hidden_dims, tied=True)
    encoders = [layer for layer in model.encoder if isinstance(layer, nn.Linear)]
    decoders = [layer for layer in [*model.decoder, model.head] if isinstance(layer, TransposedLinear)]
    assert len(encoders) == len(decoders) == (1 if hidden_dims is None else 3)
    count = sum(layer.weight.numel() for layer in encoders)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2) == count
    for twin in (model, copy.deepcopy(model), copy.deepcopy(model).double()):
        encoders = [layer for layer in twin.encoder if isinstance(layer, nn.Linear)]
        decoders = [layer for layer in [*twin.decoder, twin.head] if isinstance(layer, TransposedLinear)]
        for encoder, decoder in zip(encoders, reversed(decoders), strict=True):
            assert decoder.weight.data_ptr() == encoder.weight.data_ptr()
            assert torch.equal(decoder.weight, encoder.weight.t())
    loss = model.loss(images()).sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model.head.weight, model.encoder[0].weight.t())
    again = Autoencoder(16, 5, hidden_dims, tied=True)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.reconstruct(images()), model.reconstruct(images()))


def test_gradients_of_tied_weights_are_those_of_both_places():
    tied = Autoencoder(16, 5, (7,), tied=True).double()
    loose = Autoencoder(16, 5, (7,)).double()
    with torch.no_grad():
        for source, target in ((0, 0), (2, 2)):
            loose.encoder[target].weight.copy_(tied.encoder[source].weight)
            loose.encoder[target].bias.copy_(tied.encoder[source].bias)
        loose.decoder[0].weight.copy_(tied.encoder[2].weight.t())
        loose.head.weight.copy_(tied.encoder[0].weight.t())
    x = images().double()
    for model in (tied, loose):
        model.loss(x).sum().backward()
    expected = loose.encoder[0].weight.grad + loose.head.weight.grad.t()
    torch.testing.assert_close(tied.encoder[0].weight.grad, expected)
    expected = loose.encoder[2].weight.grad + loose.decoder[0].weight.grad.t()
    torch.testing.assert_close(tied.encoder[2].weight.grad, expected)


def test_linear_one_stops_at_the_principal_components():
    """Baldi & Hornik 1989: there the gradient of a linear autoencoder vanishes, and its loss is what PCA leaves."""
    x = (images(40).double() @ torch.randn(16, 16, generator=torch.Generator().manual_seed(2)).double()).numpy()
    pca = PCA(3).fit(x)
    x, components, mean = (torch.from_numpy(values) for values in (x, pca.components_, pca.mean_))
    model = Autoencoder(16, 3, None, error="squared", tied=True).double()
    with torch.no_grad():
        model.encoder[0].weight.copy_(components)
        model.encoder[0].bias.copy_(-components @ mean)
        model.head.bias.copy_(mean)
    loss = model.loss(x).mean()
    left = (x - torch.from_numpy(pca.inverse_transform(pca.transform(x.numpy())))).square().sum(1).mean()
    torch.testing.assert_close(loss.detach(), left)
    for gradient in torch.autograd.grad(loss, list(model.parameters())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)


def test_k_sparse_keeps_the_largest_values():
    z = torch.tensor([[3.0, -5.0, 2.0, 0.5], [-1.0, -4.0, -2.0, -3.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    found = k_sparse(z, 2)
    assert torch.equal(found[:2], torch.tensor([[3.0, 0.0, 2.0, 0.0], [-1.0, 0.0, -2.0, 0.0]]))
    assert int((found[2] == 1).sum()) == 2
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert torch.equal(gradient, (found != 0).float())
    assert torch.equal(k_sparse(z, 4), z)
    assert k_sparse(torch.rand(2, 3, 5), 1).count_nonzero() == 6


def test_k_sparse_codes_have_k_values():
    model, x = make("k-sparse-autoencoder"), images()
    dense = model.encoder(x)
    code = model.code(x)
    assert torch.equal((code != 0).sum(1), torch.full((9,), 3))
    assert torch.equal(code[code != 0], dense[code != 0])
    smallest = torch.where(code != 0, code, torch.inf).amin(1)
    assert (torch.where(code == 0, dense, -torch.inf).amax(1) <= smallest).all()
    assert torch.equal(model.figures(x)["values of the code that are not 0"], torch.full((9,), 3))


@pytest.mark.parametrize("code_activation", ["relu", "linear"])
def test_sparse_loss_has_the_norm_of_the_code(code_activation):
    model, x = make("sparse-autoencoder", sparsity=0.3, code_activation=code_activation), images()
    z = model.code(x)
    torch.testing.assert_close(model.loss(x), model.reconstruction_error(x) + 0.3 * z.abs().sum(1))
    figures = model.figures(x)
    torch.testing.assert_close(figures["L1 norm of the code"], z.abs().sum(1))
    assert torch.equal(figures["values of the code that are not 0"], (z.abs() > 0).sum(1))


def test_filters_are_the_weights_of_the_first_layer():
    model = make("autoencoder")
    assert torch.equal(model.filters(), model.encoder[0].weight)
    assert model.filters().shape == (7, 16)


@every_model
@pytest.mark.parametrize("freeze", [False, True])
def test_classifier_is_linear_in_the_code(name, freeze):
    model, x = make(name), images()
    network = classifier(model, 4, freeze=freeze)
    assert {parameter.requires_grad for parameter in network.model.parameters()} == {not freeze}
    torch.testing.assert_close(network(x), model.code(x) @ network.head.weight.t() + network.head.bias)
    before = model.code(x)
    optimizer = torch.optim.SGD((each for each in network.parameters() if each.requires_grad), lr=1.0)
    nn.functional.cross_entropy(network(x), torch.arange(9) % 4).backward()
    optimizer.step()
    assert torch.equal(model.code(x), before)  # a copy was trained
    assert torch.equal(network.model.code(x), before) is freeze
    encoders = {f"model.encoder.{key}" for key, _ in model.encoder.named_parameters()}
    assert {key for key, _ in network.named_parameters()} == {"head.weight", "head.bias"} | encoders


def test_classifier_learns():
    """Two classes apart by one value of a thousand times the noise are told apart by the probe of a linear code."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(40) % 2
    x = 0.001 * torch.randn(40, 16, generator=generator)
    x[:, 5] += labels
    torch.manual_seed(0)
    network = classifier(Autoencoder(16, 8, None, error="squared"), 2, freeze=True)
    optimizer = torch.optim.Adam(network.head.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
    assert torch.equal(network(x).argmax(1), labels)


@pytest.mark.parametrize("make_call", [
    (lambda: Autoencoder(0), ValueError, "Autoencoder: data_dim must be at least 1, got 0"),
    (lambda: Autoencoder(4, 2.5), TypeError, "latent_dim must be an int, got 2.5 of type float"),
    (lambda: Autoencoder(4, 2, (3, 0)), ValueError, "hidden_dims must be at least 1, got 0"),
    (lambda: Autoencoder(4, activation="step"), ValueError, "activation must be one of tanh, relu"),
    (lambda: Autoencoder(4, code_activation="step"), ValueError, "code_activation must be one of linear, tanh"),
    (lambda: Autoencoder(4, error="absolute"), ValueError, "error must be one of squared, bernoulli"),
    (lambda: Autoencoder(4, data_mean=torch.zeros(3)), ValueError, r"data_mean must have the shape \(4,\), got \(3,\)"),
    (lambda: Autoencoder(4).code(torch.zeros(2, 3)), ValueError, r"x must have the shape \(B, 4\), got \(2, 3\)"),
    (lambda: Autoencoder(4).loss([0.0]), TypeError, r"x must be a tensor of shape \(B, 4\)"),
    (lambda: Autoencoder(4).code(torch.zeros(2, 4).double()), TypeError, "x must have the model's dtype torch.float32"),
    (lambda: Autoencoder(4).loss(torch.full((1, 4), 2.0)), ValueError, r"\[0, 1\]"),
    (lambda: SparseAutoencoder(4, sparsity=-1.0), ValueError, "sparsity must be finite and not negative, got -1.0"),
    (lambda: KSparseAutoencoder(4, 3, num_active=4), ValueError, "num_active must be at most the code's 3 values"),
    (lambda: KSparseAutoencoder(4, 3, num_active=0), ValueError, "num_active must be at least 1, got 0"),
    (lambda: k_sparse(torch.tensor(1.0), 1), TypeError, "z must be a tensor of shape .*, got a tensor without axes"),
    (lambda: k_sparse(torch.ones(2), 3), ValueError, "k_sparse: num_active must be at most the code's 2 values, got 3"),
    (lambda: classifier(nn.Linear(2, 2), 3), TypeError, "Linear lacks code"),
    (lambda: classifier(Autoencoder(4), 0), ValueError, "classifier: num_classes must be at least 1, got 0"),
    (lambda: Reconstruction()(VAE(4, 2, (3,)), torch.ones(1, 4)), TypeError, "needs a model with a loss of its own"),
    (lambda: ELBO()(Autoencoder(4), torch.ones(1, 4)), TypeError, "Autoencoder lacks encode and log_likelihood"),
], ids=lambda call: call[2][:30])  # fmt: skip
def test_refusals(make_call):
    call, error, words = make_call
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("kind", [ContractiveAutoencoder, DenoisingAutoencoder, SparseAutoencoder])
def test_values_of_counts_and_others_pass_without_a_check(kind):
    x = torch.full((2, 16), 2.0)
    assert kind(16, 4, error="poisson").loss(x).isfinite().all()
    assert kind(16, 4, error="bernoulli", validate_args=False).loss(x).isfinite().all()
