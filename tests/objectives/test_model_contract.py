"""What a model may give to the objectives: priors of every form, data of every structure; and complaints about it."""

import copy
import pickle
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

from fastvi import kl_normal, normal_log_prob
from fastvi.evaluate import active_units, evaluate, stream_bounds
from fastvi.models import VAE
from fastvi.objectives import ELBO, IWAE, STL, DReG, log_weights

OBJECTIVES = [ELBO(2), ELBO(2, analytic_kl=False), STL(3), IWAE(4), IWAE(4, backward_samples=2), DReG(4)]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)

B, D, Z = 5, 6, 3


class Plain(nn.Module):
    """A user's model that knows nothing of priors."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D, 2 * Z), nn.Linear(Z, D)

    def encode(self, x):
        return self.encoder(x).chunk(2, -1)

    def log_likelihood(self, x, z):
        return normal_log_prob(x, self.decoder(z), torch.zeros_like(x))


class PlainWithPrior(Plain):
    def __init__(self):
        super().__init__()
        self.prior_mean = nn.Parameter(torch.ones(Z))
        self.register_buffer("prior_logvar", torch.full((Z,), 0.5))


class Small(VAE):
    def __init__(self):
        super().__init__(D, Z, (4,))


class Learned(Small):
    def __init__(self):
        super().__init__()
        self.prior_mean = nn.Parameter(torch.ones(Z))
        self.prior_logvar = nn.Parameter(torch.zeros(1, Z))


class ClassAttributes(Small):
    prior_mean = prior_logvar = None

    def __init__(self):
        super().__init__()
        self.prior_mean = nn.Parameter(torch.ones(Z))
        self.register_buffer("prior_logvar", torch.full((Z,), 0.5))


class Registered(Small):
    prior_mean: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_parameter("prior_mean", nn.Parameter(torch.ones(Z)))


class Property(Small):
    def __init__(self):
        super().__init__()
        self.pseudo_input = nn.Linear(1, Z)

    @property
    def prior_mean(self):
        return self.pseudo_input.bias


def assigned_later():
    model = Small()
    model.prior_mean = nn.Parameter(torch.ones(Z))
    return model


def none_and_again():
    model = Learned()
    model.prior_mean = model.prior_logvar = None
    model.prior_logvar = nn.Parameter(torch.ones(Z))
    return model


PRIORS = [PlainWithPrior, Learned, ClassAttributes, Registered, Property, assigned_later, none_and_again]
every_prior = pytest.mark.parametrize("make", PRIORS, ids=lambda make: make.__name__)


def data(count=B):
    return torch.rand(count, D, generator=torch.Generator().manual_seed(1)).round()


@every_objective
@every_prior
def test_priors_learn_in_every_form(make, objective):
    torch.manual_seed(0)
    model = make()
    objective(model, data(), seed=0).sum().backward()
    for name, parameter in model.named_parameters():
        if "prior" in name or name == "pseudo_input.bias":
            assert parameter.grad.abs().sum() > 0.0, name


@every_prior
def test_the_divergence_is_that_from_the_prior(make):
    """ELBO at beta 1 less ELBO at beta 0 is the divergence, whose formula takes the prior's parameters themselves."""
    torch.manual_seed(0)
    model, x = make(), data()
    mean, logvar = model.encode(x)
    prior = (getattr(model, name, None) for name in ("prior_mean", "prior_logvar"))
    divergence = ELBO(beta=0.0)(model, x, seed=0) - ELBO()(model, x, seed=0)
    torch.testing.assert_close(divergence, kl_normal(mean, logvar, *prior), rtol=1e-4, atol=1e-5)  # float32 differences
    standard = kl_normal(mean, logvar)
    assert (divergence - standard).abs().max() > 0.01  # indeed another prior


@every_prior
def test_priors_are_saved_copied_and_moved(make, tmp_path):
    torch.manual_seed(0)
    model, x = make(), data()
    expected = IWAE(4)(model, x, seed=0)
    torch.save(model.state_dict(), tmp_path / "state")
    loaded = make()
    loaded.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    copies = [loaded, copy.deepcopy(model)]
    if make is not assigned_later and make is not none_and_again:  # functions, but what they make is pickled as well
        copies.append(pickle.loads(pickle.dumps(model)))
    for other in copies:
        torch.testing.assert_close(IWAE(4)(other, x, seed=0), expected, rtol=0, atol=0)
    double = IWAE(4)(model.double(), x.double(), seed=0)
    torch.testing.assert_close(double, expected.double(), rtol=1e-4, atol=1e-5)  # float32 against float64
    assert IWAE(4)(model.to("meta"), x.double().to("meta"), seed=0).is_meta


def test_a_prior_of_none_is_the_standard_normal_again():
    torch.manual_seed(0)
    model, x = Small(), data()
    expected, names = IWAE(4)(model, x, seed=0), set(model.state_dict())
    for assign in (
        lambda: setattr(model, "prior_mean", nn.Parameter(torch.ones(Z))),
        lambda: model.register_buffer("prior_mean", torch.ones(Z)),
        lambda: model.register_parameter("prior_mean", nn.Parameter(torch.ones(Z))),
        lambda: setattr(model, "prior_mean", torch.ones(Z)),
    ):
        assign()
        assert (IWAE(4)(model, x, seed=0) != expected).all()
        model.prior_mean = None
        assert model.prior_mean is None
        assert set(model.state_dict()) == names
        torch.testing.assert_close(IWAE(4)(model, x, seed=0), expected, rtol=0, atol=0)


@every_objective
def test_a_model_without_priors_has_the_standard_normal(objective):
    torch.manual_seed(0)
    model, x = Plain(), data()
    value = objective(model, x, seed=0)
    model.prior_mean, model.prior_logvar = torch.zeros(Z), torch.zeros(Z)
    torch.testing.assert_close(objective(model, x, seed=0), value, rtol=1e-5, atol=1e-5)  # float32 rounding


@every_objective
@pytest.mark.parametrize("shape", [(Z,), (1, Z), (B, Z), (1,), (B, 1)], ids=str)
def test_shapes_of_a_prior(objective, shape):
    torch.manual_seed(0)
    model, x = Plain().double(), data().double()
    model.prior_mean = torch.rand(shape, dtype=torch.float64)
    value = objective(model, x, seed=0)
    model.prior_mean = model.prior_mean.expand(B, Z).clone()
    torch.testing.assert_close(objective(model, x, seed=0), value, rtol=0, atol=1e-12)  # the same float64 formulas


# Dynamo itself makes an instance of autograd.Function, and warns of it, when it traces one (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@every_objective
@pytest.mark.parametrize("make", [Plain, PlainWithPrior, Small, Learned, ClassAttributes])
def test_models_are_compiled_whole(make, objective):
    torch.manual_seed(0)
    model, x = make(), data()
    torch._dynamo.reset()
    torch.manual_seed(1)
    found = torch.compile(objective, backend="aot_eager", fullgraph=True)(model, x)
    torch.manual_seed(1)
    torch.testing.assert_close(found, objective(model, x), rtol=1e-5, atol=1e-5)  # float32 in another order


@every_objective
@pytest.mark.parametrize("count", [1, B])
def test_components_of_a_mixture_are_no_prior(objective, count):
    """Ten of them would enlarge a batch of one example to ten."""
    model = Plain()
    model.prior_mean = nn.Parameter(torch.zeros(10, Z))
    message = rf"Plain.prior_mean: expected the shape \(3,\), or \({count}, 3\) .*, got \(10, 3\); .* mixture"
    with pytest.raises(ValueError, match=message):
        objective(model, data(count))


@every_objective
@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        (0.0, TypeError, "Plain.prior_logvar: expected a tensor or None, got float"),
        ([0.0] * Z, TypeError, "Plain.prior_logvar: expected a tensor or None, got a list of 3: float, float, float"),
        (torch.tensor(0.0), ValueError, r"Plain.prior_logvar: expected the shape \(3,\), .* got \(\)"),
        (torch.zeros(Z + 1), ValueError, r"Plain.prior_logvar: expected the shape \(3,\), .* got \(4,\)"),
        (torch.zeros(4, B, Z), ValueError, r"Plain.prior_logvar: expected the shape \(3,\), .* got \(4, 5, 3\)"),
    ],
)
def test_priors_that_do_not_fit(objective, prior, error, message):
    model = Plain()
    model.prior_logvar = prior
    with pytest.raises(error, match=message):
        objective(model, data())


def test_a_property_that_fails_is_not_a_standard_normal():
    class Broken(Plain):
        @property
        def prior_mean(self):
            return self.prior_network.bias

    with pytest.raises(AttributeError):
        IWAE(2)(Broken(), data())


def encoding(returned):
    model = Plain()
    model.encode = lambda x: returned
    return model


zeros = torch.zeros(B, Z)


@every_objective
@pytest.mark.parametrize(
    ("returned", "error", "got"),
    [
        (None, TypeError, "got NoneType"),
        (zeros, TypeError, r"got one tensor of shape \(5, 3\)"),
        (torch.zeros(2, B, Z), TypeError, r"got one tensor of shape \(2, 5, 3\)"),
        ((zeros,), TypeError, r"got a tuple of 1: one tensor of shape \(5, 3\)"),
        ((zeros, zeros, zeros), TypeError, "got a tuple of 3: "),
        ({"mean": zeros, "logvar": zeros}, TypeError, "got dict"),
        ((zeros, 0.0), TypeError, r"got a tuple of 2: one tensor of shape \(5, 3\), float"),
        ((zeros.numpy(), zeros.numpy()), TypeError, "got a tuple of 2: ndarray, ndarray"),
        (torch.distributions.Normal(zeros, 1.0), TypeError, "got Normal"),
        ((zeros.long(), zeros), TypeError, "got torch.int64 and torch.float32"),
        ((zeros, zeros.double()), TypeError, "one dtype, got torch.float32 and torch.float64"),
        ((zeros[:, 0], zeros[:, 0]), ValueError, r"got \(5,\) and \(5,\)"),
        ((zeros.t(), zeros.t()), ValueError, r"got \(3, 5\) and \(3, 5\)"),
        ((zeros[:1], zeros[:1]), ValueError, r"\(5, latent .* got \(1, 3\) and \(1, 3\)"),
        ((zeros, torch.zeros(B, Z + 1)), ValueError, r"got \(5, 3\) and \(5, 4\)"),
        ((zeros[None], zeros[None]), ValueError, r"got \(1, 5, 3\) and \(1, 5, 3\)"),
        ((zeros[..., None], zeros[..., None]), ValueError, r"got \(5, 3, 1\) and \(5, 3, 1\)"),
    ],
)
def test_what_encode_returns_wrongly_is_named(objective, returned, error, got):
    with pytest.raises(error, match=rf"^Plain\.encode: expected .*{got}") as raised:
        objective(encoding(returned), data())
    assert "\n" not in str(raised.value)


@every_objective
@pytest.mark.parametrize("returned", [[zeros, zeros], (zeros, zeros[:1]), (zeros, zeros[0]), (zeros, zeros[:, :1])])
def test_pairs_that_encode_may_return(objective, returned):
    """A list, and a log-variance that examples or latent variables share."""
    torch.manual_seed(0)
    model = encoding(returned)
    value = objective(model, data(), seed=0)
    model.encode = lambda x: (zeros, zeros)
    torch.testing.assert_close(value, objective(model, data(), seed=0), rtol=1e-6, atol=1e-6)  # float32 rounding


@every_objective
@pytest.mark.parametrize(
    ("returned", "error", "got"),
    [
        (None, TypeError, "got NoneType"),
        (0.0, TypeError, "got float"),
        ((zeros, zeros), TypeError, "got a tuple of 2"),
        (torch.tensor(0.0), ValueError, r"got \(\)"),
        (zeros[:, 0], ValueError, r"got \(5,\)"),
        (zeros, ValueError, r"got \(5, 3\)"),
    ],
)
def test_what_log_likelihood_returns_wrongly_is_named(objective, returned, error, got):
    model = Plain()
    model.log_likelihood = lambda x, z: returned
    with pytest.raises(error, match=rf"^Plain\.log_likelihood: expected .*{got}"):
        objective(model, data())


class Conditional(Plain):
    """Takes ``(x, y)`` in one of many structures: y shifts the likelihood."""

    def __init__(self, unpack):
        super().__init__()
        self.unpack = unpack

    def encode(self, x):
        return super().encode(self.unpack(x)[0])

    def log_likelihood(self, x, z):
        x, y = self.unpack(x)
        return normal_log_prob(x, self.decoder(z) + y.to(x.dtype).unsqueeze(-1), torch.zeros_like(x))


class Pair(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor


STRUCTURES = {
    "tuple": (lambda x, y: (x, y), lambda pair: pair),
    "list": (lambda x, y: [x, y], lambda pair: pair),
    "dictionary": (lambda x, y: {"x": x, "y": y}, lambda pair: (pair["x"], pair["y"])),
    "nested": (lambda x, y: (x, {"y": [y, None]}), lambda pair: (pair[0], pair[1]["y"][0])),
    "namedtuple": (Pair, lambda pair: (pair.images, pair.labels)),
    "ordered": (lambda x, y: OrderedDict(y=y, x=x), lambda pair: tuple(pair[key] for key in reversed(pair))),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_evaluation_takes_what_the_objectives_take(structure):
    """The figures are those of one tensor into which the same numbers were packed."""
    pack, unpack = STRUCTURES[structure]
    count = 150  # more than one batch
    x, y = data(count), torch.arange(count) % 3
    torch.manual_seed(0)
    model = Conditional(unpack)
    packed = Conditional(lambda tensor: (tensor[:, :D], tensor[:, D]))
    packed.load_state_dict(model.state_dict())
    whole = torch.cat([x, y.unsqueeze(1).float()], 1)

    found = stream_bounds(model, pack(x, y), 20, chunk=7, seed=3)
    expected = stream_bounds(packed, whole, 20, chunk=7, seed=3)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}  # float32, rows of other strides
    torch.testing.assert_close(vars(found), vars(expected), **tolerance)
    assert active_units(model, pack(x, y)).tolist() == active_units(packed, whole).tolist()
    first, second = (evaluate(model, pack(x, y), num_samples=20), evaluate(packed, whole, num_samples=20))
    assert (first.images, first.active_units, first.latent_dim) == (count, second.active_units, Z)
    assert first.importance_weighted == pytest.approx(second.importance_weighted, rel=1e-5)
    for objective in OBJECTIVES:
        assert objective(model, pack(x, y), seed=0).shape == (count,)
    assert log_weights(model, pack(x, y), 2).shape == (2, count)


@pytest.mark.parametrize("call", [evaluate, lambda model, x, **_: active_units(model, x), stream_bounds])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ((data(), torch.zeros(B + 1)), ValueError, r"different numbers of examples: \w+\[0\] 5, \w+\[1\] 6"),
        ({"a": data(3), "b": data(4)}, ValueError, r"different numbers of examples: \w+\['a'\] 3, \w+\['b'\] 4"),
        (torch.tensor(1.0), ValueError, r"\w+ has no axis"),
        ((data(), 3), TypeError, r"\w+\[1\] must be a tensor, or a tuple, list or dictionary of tensors, got int"),
        (data().numpy(), TypeError, r"\w+ must be a tensor, or a tuple, list or dictionary of tensors, got ndarray"),
        ((), TypeError, r"\w+ holds no tensor"),
    ],
)
def test_data_that_cannot_be_batched(call, x, error, message):
    with pytest.raises(error, match=message):
        call(Plain(), x, num_samples=2)
