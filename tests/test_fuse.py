"""fastvi.fuse: what it puts in the place of nn.Sequential, what it leaves alone and names, and that nothing is lost."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import fastvi
from fastvi._perceptron import ACTIVATIONS
from fastvi.models import VAE
from fastvi.nn import MLP, FusedSequential

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""float32: other orders of sums of up to twenty terms of size one."""


@pytest.fixture(autouse=True)
def _fixed_weights():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """The numbers of layers of the perceptrons that ran as one operation."""
    made = []
    mlp = fastvi.ops.mlp

    def counted(x, weights, *arguments):
        made.append(len(weights))
        return mlp(x, weights, *arguments)

    monkeypatch.setattr(fastvi.ops, "mlp", counted)
    return made


def perceptron(activation=nn.ReLU):
    return nn.Sequential(nn.Linear(6, 9), activation(), nn.Linear(9, 7), activation(), nn.Linear(7, 4))


def results(model, x):
    """Outputs, and the gradients of a weighted sum by x and by all parameters."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    (out * torch.linspace(-1.0, 1.0, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def assert_same(model, reference, x=None):
    x = torch.randn(5, 6) if x is None else x
    for result, expected in zip(results(model, x), results(reference, x), strict=True):
        torch.testing.assert_close(result, expected, **ROUNDING)


class Tutorial(nn.Module):
    """A variational autoencoder as tutorials have it, its layers in nn.Sequential."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.mean, self.logvar = nn.Linear(8, 2), nn.Linear(8, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid())

    def forward(self, x):
        hidden = self.body(x)
        return self.decoder(self.mean(hidden) + torch.exp(0.5 * self.logvar(hidden)))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.Softplus, nn.ELU, nn.SiLU, nn.GELU])
def test_results_and_gradients_stay_the_same(activation, calls):
    model = perceptron(activation)
    plain = copy.deepcopy(model)
    assert fastvi.fuse(model) == (("0 to 4",), ())
    x = torch.randn(5, 6)
    assert_same(model, plain, x)
    assert calls == [3]


def test_every_activation_of_the_operation_has_a_module():
    assert {str(fastvi.fuse(MLP((2, 3, 4), name)).fused[0]) for name in ACTIVATIONS} == {"0 to 2"}


def test_a_model_with_sequences_inside(calls):
    model = Tutorial()
    plain = copy.deepcopy(model)
    found = fastvi.fuse(model)
    assert found.fused == ("body.0 to body.1", "decoder.0 to decoder.2")
    reason = "it stands in no nn.Sequential; fastvi.mlp takes its weight"
    assert found.left == (f"mean: {reason}", f"logvar: {reason}")
    assert str(found).splitlines() == [
        "fused body.0 to body.1",
        "fused decoder.0 to decoder.2",
        f"left mean: {reason}",
        f"left logvar: {reason}",
    ]
    assert_same(model, plain)
    assert calls == [1, 2]


def test_nothing_of_the_model_is_lost():
    model = Tutorial()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    keys, parameters, modules = list(model.state_dict()), list(model.parameters()), list(model.modules())
    text = repr(model)
    fastvi.fuse(model)
    assert list(model.state_dict()) == keys
    assert all(after is before for after, before in zip(model.parameters(), parameters, strict=True))
    assert all(after is before for after, before in zip(model.modules(), modules, strict=True))
    assert repr(model) == text.replace("Sequential", "FusedSequential")
    before = model.body[0].weight.detach().clone()
    results(model, torch.randn(5, 6))
    optimizer.step()
    assert not torch.equal(model.body[0].weight, before)
    model.load_state_dict(Tutorial().state_dict())
    fastvi.unfuse(model)
    assert repr(model) == text
    assert {type(module) for module in model.modules()} == {Tutorial, nn.Sequential, nn.Linear, nn.ReLU, nn.Sigmoid}
    assert all("left_alone" not in vars(module) for module in model.modules())


def test_training_goes_on_as_without_it():
    model = Tutorial()
    plain = copy.deepcopy(model)
    fastvi.fuse(model)
    x = torch.rand(20, 6)
    losses = []
    for each in (model, plain):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy(each(x), x)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_fusing_twice_changes_nothing():
    model = Tutorial()
    first = fastvi.fuse(model)
    assert fastvi.fuse(model) == first
    fastvi.unfuse(model)
    fastvi.unfuse(model)
    assert fastvi.fuse(model) == first


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies(copied, calls):
    model = Tutorial()
    fastvi.fuse(model)
    other = copied(model)
    assert isinstance(other.decoder, FusedSequential)
    assert_same(other, model)
    assert len(calls) == 4


def test_replicas_as_data_parallel_makes_them():
    model = perceptron()
    fastvi.fuse(model)
    replica = model._replicate_for_data_parallel()
    for name, module in model.named_children():  # as torch.nn.parallel.replicate: weights become plain tensors
        copied = module._replicate_for_data_parallel()
        copied._parameters = {}
        for key, parameter in module.named_parameters():
            setattr(copied, key, parameter * 1.0)
        replica._modules[name] = copied
    x = torch.randn(5, 6)
    torch.testing.assert_close(replica(x), model(x), **ROUNDING)
    replica(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_hooks_added_afterwards_are_called(calls):
    model = perceptron()
    fastvi.fuse(model)
    seen = []
    handles = [
        model[0].register_forward_hook(lambda *_: seen.append("forward of 0")),
        model[3].register_forward_pre_hook(lambda *_: seen.append("before 3")),
        model[4].register_full_backward_hook(lambda *_: seen.append("backward of 4")),
        model.register_forward_hook(lambda *_: seen.append("forward of all")),
    ]
    results(model, torch.randn(5, 6))
    assert seen == ["forward of 0", "before 3", "forward of all", "backward of 4"]
    for handle in handles:
        handle.remove()
    calls.clear()
    results(model, torch.randn(5, 6))
    assert (len(seen), calls) == (4, [3])


def test_hooks_of_all_modules_are_called():
    model = perceptron()
    fastvi.fuse(model)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        model(torch.randn(5, 6))
    finally:
        handle.remove()
    assert seen == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear, FusedSequential]


def test_hooks_of_parameters_are_called():
    model = perceptron()
    fastvi.fuse(model)
    seen = []
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: seen.append(name))
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(f"{name} afterwards"))
    results(model, torch.randn(5, 6))
    names = [name for name, _ in model.named_parameters()]
    assert sorted(seen) == sorted([*names, *(f"{name} afterwards" for name in names)])


class Bent(nn.Sequential):
    """A sequence with a way of its own."""

    def forward(self, x):
        return super().forward(x) + 1.0


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


def with_forward(module):
    module.forward = module.forward
    return module


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 4), nn.Tanh())


LEFT = {
    "hooks": (lambda: nn.Sequential(hooked(nn.Linear(6, 4)), nn.ReLU()), {"0": "it has hooks"}),
    "hooks of an activation": (
        lambda: nn.Sequential(nn.Linear(6, 4), hooked(nn.ReLU())),
        {"0": "of the activation after it: it has hooks"},
    ),
    "forward": (
        lambda: nn.Sequential(with_forward(nn.Linear(6, 4)), nn.ReLU()),
        {"0": "its forward is not that of its class"},
    ),
    "parametrization": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)), nn.ReLU()),
        {"0": "it has parametrizations"},
    ),
    "spectral norm": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU()),
        {"0": "it has parametrizations"},
    ),
    "older spectral norm": (
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4)), nn.ReLU()),
        {"0": "it has hooks"},
    ),
    "pruned": (
        lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(6, 4), "weight", 0.5), nn.ReLU()),
        {"0": "it has hooks"},
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU()),
        {"0": "it has no shape yet; call the model once before fusing it"},
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.0), nn.ReLU()),
        {"0": "no activation is next to it"},
    ),
    "normalisation": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()),
        {"0": "no activation is next to it"},
    ),
    "another activation": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU()),
        {"0": "no activation is next to it"},
    ),
    "options": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.ELU(0.5)),
        {"0": "of the activation after it: the operations have elu without options"},
    ),
    "gelu by tanh": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.GELU("tanh")),
        {"0": "of the activation after it: the operations have gelu without options"},
    ),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()).bfloat16(),
        {"0": "its weight has dtype torch.bfloat16"},
    ),
    "a class of its own": (
        lambda: Bent(nn.Linear(6, 4), nn.ReLU()),
        {"0": "it stands in a Bent, a class of its own"},
    ),
    "a layer of another class": (
        lambda: nn.Sequential(nn.modules.linear.NonDynamicallyQuantizableLinear(6, 4), nn.ReLU()),
        {"0": "it is of class NonDynamicallyQuantizableLinear"},
    ),
    "alone": (lambda: nn.Linear(6, 4), {"the model": "it stands in no nn.Sequential; fastvi.mlp takes its weight"}),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_cannot_be_kept_is_left_alone_and_named(kind):
    make, reasons = LEFT[kind]
    torch.manual_seed(1)
    model = make()
    torch.manual_seed(1)
    plain = make()
    found = fastvi.fuse(model)
    assert found == ((), tuple(f"{name}: {reason}" for name, reason in reasons.items()))
    assert not any(isinstance(module, FusedSequential) for module in model.modules())
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    x = torch.randn(5, 6, dtype=dtype)
    torch.manual_seed(2)
    out = model(x)
    torch.manual_seed(2)
    assert torch.equal(out, plain(x))


def test_layers_used_in_two_places_are_left_alone(calls):
    model = shared()
    plain = copy.deepcopy(model)
    found = fastvi.fuse(model)
    assert found == (("4 to 5",), ("0: it is used in two places",))
    assert_same(model, plain)
    assert calls == [1]
    body = nn.Linear(6, 4)
    found = fastvi.fuse(nn.ModuleDict({"a": nn.Sequential(body, nn.ReLU()), "b": nn.Sequential(body, nn.Tanh())}))
    assert found == ((), ("a.0: it is used in two places",))


def test_what_is_fused_around_dropout(calls):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    plain = copy.deepcopy(model)
    assert fastvi.fuse(model).fused == ("0 to 1", "3 to 5")
    x = torch.randn(5, 6)
    out = []
    for each in (model, plain):
        torch.manual_seed(3)
        out.append(each(x))
    torch.testing.assert_close(*out, **ROUNDING)
    assert_same(model.eval(), plain.eval(), x)
    assert calls[:2] == [1, 2]


def test_nested_sequences(calls):
    inner = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 6))
    model = nn.Sequential(perceptron(), nn.Tanh(), inner)
    plain = copy.deepcopy(model)
    found = fastvi.fuse(model)
    assert found == (("0.0 to 0.4", "2.0.0 to 2.0.1"), ("2.1: no activation is next to it",))
    assert_same(model, plain)
    assert calls == [3, 1]


def test_a_lazy_layer_is_fused_when_it_has_a_shape():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    model(torch.randn(5, 6))
    assert fastvi.fuse(model) == (("0 to 1",), ())


def test_other_dtypes_and_devices_afterwards_run_as_modules(calls):
    model = perceptron()
    fastvi.fuse(model)
    x = torch.randn(5, 6)
    assert model.double()(x.double()).dtype == torch.float64
    assert calls == [3]
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert model.to("meta")(x.bfloat16().to("meta")).is_meta
    assert calls == [3]


def test_parametrized_afterwards(calls):
    model = perceptron()
    fastvi.fuse(model)
    parametrizations.weight_norm(model[2])
    plain = nn.Sequential(*copy.deepcopy(model))
    assert_same(model, plain)
    assert calls == [1]


def test_autocast_runs_the_modules(calls):
    model = perceptron()
    plain = copy.deepcopy(model)
    fastvi.fuse(model)
    x = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), plain(x))
        assert model(x).dtype == torch.bfloat16
    assert calls == []


def test_a_model_of_fastvi_is_left_as_it_is():
    model = VAE(6, 2, (5,))
    text = repr(model)
    assert fastvi.fuse(model) == ((), ("the model: a VAE runs its layers as one operation already",))
    assert repr(model) == text
    wrapped = nn.ModuleDict({"vae": model, "head": nn.Sequential(nn.Linear(2, 3), nn.ReLU())})
    found = fastvi.fuse(wrapped)
    assert found == (("head.0 to head.1",), ("vae: a VAE runs its layers as one operation already",))
    assert repr(model) == text


def test_an_mlp_is_fused_already():
    model = MLP((6, 5, 4))
    assert fastvi.fuse(model) == (("0 to 2",), ())
    fastvi.unfuse(model)
    assert type(model) is MLP


def test_models_without_anything_to_fuse():
    assert str(fastvi.fuse(nn.Conv2d(1, 1, 3))) == "no linear layers"
    assert fastvi.fuse(nn.Sequential()) == ((), ())


@pytest.mark.parametrize("wrong", [None, [], nn.Linear], ids=str)
@pytest.mark.parametrize("function", [fastvi.fuse, fastvi.unfuse])
def test_what_is_no_module(function, wrong):
    with pytest.raises(TypeError, match=rf"^{function.__name__}: model must be a torch.nn.Module, got "):
        function(wrong)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_torch_compile(fullgraph, calls):
    model = perceptron()
    plain = copy.deepcopy(model)
    fastvi.fuse(model)
    compiled = torch.compile(model, fullgraph=fullgraph, backend="aot_eager")
    x = torch.randn(5, 6)
    torch.testing.assert_close(compiled(x), plain(x), **ROUNDING)
    assert calls == []


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")  # of another category in each version of PyTorch
def test_export_and_tracing():
    model = perceptron()
    fastvi.fuse(model)
    x = torch.randn(5, 6)
    expected = model(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected, **ROUNDING)
    torch.testing.assert_close(torch.jit.trace(model, (x,))(x), expected, **ROUNDING)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected, **ROUNDING)


def test_transforms():
    model = perceptron(nn.Tanh)
    plain = copy.deepcopy(model)
    fastvi.fuse(model)
    x = torch.randn(3, 5, 6)

    def loss(parameters, module, x):
        return torch.func.functional_call(module, parameters, (x,)).square().sum()

    found = []
    for module in (model, plain):
        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, None, 0))(parameters, module, x)
        found.append([torch.func.vmap(module)(x), torch.func.jacrev(module)(x[0]), *of_each.values()])
    for result, expected in zip(*found, strict=True):
        torch.testing.assert_close(result, expected, **ROUNDING)


def test_inputs_of_any_rank():
    model = perceptron()
    plain = copy.deepcopy(model)
    fastvi.fuse(model)
    for shape in ((6,), (2, 3, 6), (0, 6), (2, 0, 6)):
        x = torch.randn(shape)
        torch.testing.assert_close(model(x), plain(x), **ROUNDING)
    with torch.inference_mode():
        torch.testing.assert_close(model(torch.ones(5, 6)), plain(torch.ones(5, 6)), **ROUNDING)
