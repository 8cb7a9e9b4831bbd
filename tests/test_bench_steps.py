"""The training steps that are timed: what each provider computes, the floor under them, and the same step in JAX."""

from __future__ import annotations

import copy
import itertools
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastvi
from fastvi.benchmarks import hamiltonian_step, harness, jax_step, perceptron_step
from fastvi.benchmarks.convolutional_step import ConvolutionalVAE
from fastvi.benchmarks.floor import matrix_products
from fastvi.benchmarks.jax_runtime import from_jax, operation_call, to_jax
from fastvi.benchmarks.results import EAGER, FASTVI, FLOOR, GEMMS
from fastvi.benchmarks.tutorial_step import SequentialVAE, tutorial_loss

needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
PERCEPTRONS = ("IWAE step, batch 20, K 1", "IWAE step, batch 128, K 1", "IWAE step, batch 100, K 1, bfloat16")
HAMILTONIAN = "HVI step, batch 100, T 1, L 4"
CONVOLUTIONAL = "ELBO step, convolutional, batch 128, K 1"
WITH_JAX = [
    (case, mode)
    for family in ("normal", "laplace", "bernoulli", "log_mean_exp", "leapfrog", "threshold")
    for case in harness.load_cases(family)
    for mode in case.modes
]


def _workload(name: str) -> harness.Workload:
    case = next(case for case in harness.load_cases("step") if case.name == name)
    torch.manual_seed(harness.SEED)
    return case.prepare("step", False)


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_the_training_step_of_every_provider_runs(name: str) -> None:
    workload = _workload(name)
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI, GEMMS, FLOOR]
    for call in workload.calls.values():
        call()


def test_the_convolutional_step_of_every_provider_runs() -> None:
    workload = _workload(CONVOLUTIONAL)
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI]
    assert workload.make_jax is None
    for call in workload.calls.values():
        call()


def test_the_hamiltonian_step_of_every_provider_runs() -> None:
    workload = _workload(HAMILTONIAN)
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI, GEMMS, FLOOR]
    for call in workload.calls.values():
        call()


@pytest.mark.parametrize("style", ["nn.Sequential", "functions"])
def test_the_tutorial_step_of_every_provider_runs(style: str) -> None:
    workload = _workload(f"tutorial step, {style}, batch 128, K 1")
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI]
    for call in workload.calls.values():
        call()


def test_the_tutorial_losses_are_the_same_with_the_same_draws() -> None:
    x = torch.rand(16, 784)
    plain = SequentialVAE()
    fused = copy.deepcopy(plain)
    assert fastvi.fuse(fused).fused == ("encoder.0 to encoder.2", "decoder.0 to decoder.2")
    losses = []
    for model in (plain, fused):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        torch.manual_seed(0)
        for _ in range(10):
            optimizer.zero_grad()
            loss = tutorial_loss(model, x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:10] == pytest.approx(losses[10:], rel=1e-5)


def test_the_convolutional_model_goes_down_and_up_again() -> None:
    model = ConvolutionalVAE()
    mean, logvar = model.encode(torch.rand(3, 784))
    assert mean.shape == logvar.shape == (3, 20)
    assert model.decoder(mean).shape == (3, 784)


class ProductTypes(TorchDispatchMode):
    """Notes the dtypes of the matrix products that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.seen.add(args[-1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("provider", [EAGER, GEMMS, FLOOR])
def test_under_autocast_the_products_are_in_bfloat16(provider: str) -> None:
    for name, dtype in ((PERCEPTRONS[1], torch.float32), (PERCEPTRONS[2], torch.bfloat16)):
        with ProductTypes() as products:
            _workload(name).calls[provider]()
        assert products.seen == {dtype}


def test_the_gemms_of_a_step_are_those_of_its_layers() -> None:
    products, floor = perceptron_step.floor_of(perceptron_step.PlainVAE(), 2, 3)
    encoder = 2 * 784 * 200 + 3 * (200 * 200 + 200 * 100)  # the first layer needs no gradient of its input
    decoder = 3 * (50 * 200 + 200 * 200 + 200 * 784)
    for call in (products, floor):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as recorded:
            call()
        flops = sum(event.flops for event in recorded.key_averages() if event.key == "aten::mm")
        assert flops == 2 * (2 * encoder + 2 * 3 * decoder)


def test_the_gemms_of_a_hamiltonian_step_are_those_of_its_layers() -> None:
    """Six products of the decoder at each of five positions, three of other layers but for the images' gradient."""
    products, floor = hamiltonian_step.floor_of(hamiltonian_step.PlainHamiltonian(), 2)
    encoder = 2 * 784 * 200 + 3 * (200 * 200 + 200 * 100)
    decoder = 5 * 6 * (50 * 200 + 200 * 200 + 200 * 784)
    reverse = 3 * (200 * 200 + 400 * 100)
    for call in (products, floor):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as recorded:
            call()
        flops = sum(event.flops for event in recorded.key_averages() if event.key in ("aten::mm", "aten::addmm"))
        assert flops == 2 * 2 * (encoder + decoder + reverse)


def test_the_products_are_those_of_a_linear_network() -> None:
    """Without activations the products are a whole network and its gradient, but for the gradient that comes in."""
    torch.manual_seed(0)
    widths, rows = (7, 5, 4, 3), 6
    weights = [torch.randn(wide, narrow) for narrow, wide in itertools.pairwise(widths)]
    gradients = [torch.empty_like(weight) for weight in weights]
    made: list[torch.Tensor] = []
    randn, randn_like = torch.randn, torch.randn_like
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *sizes, **options: made.append(randn(*sizes, **options)) or made[-1])
        patch.setattr(torch, "randn_like", lambda like: made.append(randn_like(like)) or made[-1])
        call = matrix_products(weights, gradients, [rows] * 3)
    images, incoming = made[0], made[-1]
    call()
    leaves = [weight.clone().requires_grad_() for weight in weights]
    result = images
    for leaf in leaves:
        result = result @ leaf.T
    expected = torch.autograd.grad(result, leaves, incoming)
    torch.testing.assert_close(gradients, list(expected))


def test_the_floor_moves_what_adam_moves_and_allocates_nothing() -> None:
    model = perceptron_step.PlainVAE()
    _, floor = perceptron_step.floor_of(model, 2, 1)
    with torch.profiler.profile(record_shapes=True, profile_memory=True) as recorded:
        floor()
    size = sum(parameter.numel() for parameter in model.parameters())
    passes = [event for event in recorded.events() if event.input_shapes[:1] == [[size]]]
    # A multiplication reads and writes one tensor, the addition reads two and writes one: four reads, three writes.
    assert sorted(event.name for event in passes) == ["aten::add_", "aten::mul_", "aten::mul_"]
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in recorded.key_averages())
    assert allocated < 1024  # the constants


@needs_jax
def test_the_step_in_jax_is_the_step_in_pytorch() -> None:
    """Five steps from the same weights on the same images with the same noise: the losses are the same."""
    import jax

    torch.manual_seed(1)
    batch, num_samples, latent = 6, 4, perceptron_step.LATENT_DIM
    model = perceptron_step.PlainVAE()
    state = jax_step.start(model.state_dict())
    compiled = jax.jit(jax_step.update, donate_argnums=0)
    exact = model.double()
    optimizer = torch.optim.Adam(exact.parameters(), lr=1e-3)
    for _ in range(5):
        x = torch.bernoulli(torch.full((batch, 784), 0.5))
        noise = torch.randn(num_samples, batch, latent)
        state, value = compiled(state, to_jax(x), to_jax(noise))
        loss = perceptron_step.plain_loss(num_samples, exact, x.double(), noise.double())
        assert float(value) == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert int(state["count"]) == 5
    for name, weight in exact.state_dict().items():
        # Adam's first steps are as long for a small gradient as for a large one, so that a rounding error of a gradient
        # near zero may be a step of 1e-3 of its own: a weight in a thousand may differ.
        distance = (from_jax(state["parameters"][name]).double() - weight).abs()
        assert (distance > 1e-5).double().mean() < 1e-3, name


@needs_jax
def test_the_loss_in_jax_is_the_bound_of_a_model_whose_posterior_is_exact() -> None:
    """With all weights 0 the posterior is the prior and each pixel has the probability 1/2: log p(x) is -784 log 2."""
    weights = {name: torch.zeros_like(weight) for name, weight in perceptron_step.PlainVAE().state_dict().items()}
    x, noise = torch.ones(3, 784), torch.randn(4, 3, perceptron_step.LATENT_DIM)
    value = jax_step.loss(jax_step.start(weights)["parameters"], to_jax(x), to_jax(noise))
    assert float(value) == pytest.approx(784 * math.log(2.0), rel=1e-5)


@needs_jax
def test_jax_steps_change_the_weights_and_go_on() -> None:
    workload = _workload("IWAE step, batch 20, K 1")
    assert workload.make_jax is not None
    step = workload.make_jax()
    for _ in range(3):  # each uses the memory of the state before it
        step()


@needs_jax
@pytest.mark.parametrize(("case", "mode"), WITH_JAX, ids=lambda value: getattr(value, "name", value))
def test_operations_in_jax_agree(case: harness.Case, mode: str) -> None:
    torch.manual_seed(harness.SEED)
    workload = case.prepare(mode, False)
    if workload.make_jax is not None:  # which compares
        workload.make_jax()()


@needs_jax
def test_an_operation_in_jax_gives_outputs_and_gradients() -> None:
    mean, logvar = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    call, values = operation_call("kl_normal", (mean, logvar), (0,), [torch.tensor([3.0])])
    value, gradient = values()
    call()
    assert value.item() == pytest.approx(2.5)  # half the sum of mean^2 at unit variance
    torch.testing.assert_close(gradient, 3.0 * mean)
