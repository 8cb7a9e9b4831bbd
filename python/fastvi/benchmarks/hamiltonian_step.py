"""The step of Hamiltonian variational inference that is timed: the perceptron VAE, one transition of four leapfrogs.

The plain model follows Salimans, Kingma & Welling 2015 with `torch.autograd.grad(..., create_graph=True)`: a gradient
of the log joint density at each of the five positions, half kicks at the same position merged, the log density at the
end taken from the last of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.floor import optimiser_memory
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.perceptron_step import DATA_DIM, HIDDEN_DIM, LATENT_DIM, PlainVAE
from fastvi.benchmarks.results import FASTVI, FLOOR, GEMMS
from fastvi.benchmarks.timers import Call
from fastvi.benchmarks.training_step import check_losses, steps_and_losses
from fastvi.models import VAE, HamiltonianPosterior, ReverseNetwork
from fastvi.models.hamiltonian import MOMENTUM_STREAM
from fastvi.objectives import IWAE
from fastvi.ops import rsample_normal
from fastvi.seeding import mix_seed

NUM_LEAPFROGS = 4
STEP_SIZE, MAX_STEP_SIZE = 0.1, 0.5
REVERSE_DIM = 200
TOLERANCE = 1e-4
"""Of the largest element: float32 products of twenty layers in a row, twice differentiated."""


class PlainHamiltonian(nn.Module):
    """`fastvi.models.HamiltonianPosterior` as one writes it in plain PyTorch; the parameters bear the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.model = PlainVAE()
        self.step_logits = nn.Parameter(torch.zeros(1, LATENT_DIM))
        self.reverse = nn.ModuleList([PlainReverse()])

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x, z), (B,)."""
        log_likelihood: Tensor = self.model.log_likelihood(x, z)
        return log_likelihood - 0.5 * (z.square().sum(-1) + LATENT_DIM * math.log(2.0 * math.pi))


class PlainReverse(nn.Module):
    """`fastvi.models.ReverseNetwork`, likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * LATENT_DIM, REVERSE_DIM)
        self.head = nn.Linear(REVERSE_DIM + 4 * LATENT_DIM, 2 * LATENT_DIM)

    def forward(self, z: Tensor, gradient: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of r(v|x, z)."""
        scale = torch.exp(0.5 * logvar)
        features = torch.cat([(z - mean) / scale, gradient * scale, mean, logvar], -1)
        hidden = torch.tanh(self.hidden(features))
        found = self.head(torch.cat([hidden, features], -1)).chunk(2, -1)
        return found[0], found[1]


def plain_loss(model: PlainHamiltonian, x: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return minus the bound, a mean over the batch; the noise of z_0 and of v is drawn where it is not given."""
    mean, logvar = model.model.encode(x)
    scale = torch.exp(0.5 * logvar)
    of_start, v = (torch.randn_like(mean), torch.randn_like(mean)) if noise is None else noise
    z = mean + scale * of_start
    bound = 0.5 * v.square().sum(-1) - plain.normal_log_prob(z, mean, logvar)
    step = MAX_STEP_SIZE * torch.sigmoid(model.step_logits[0]) * scale
    for i in range(NUM_LEAPFROGS + 1):
        log_joint = model.log_joint(x, z)
        (gradient,) = torch.autograd.grad(log_joint.sum(), z, create_graph=True)
        v = v + (0.5 if i in (0, NUM_LEAPFROGS) else 1.0) * step * gradient
        if i < NUM_LEAPFROGS:
            z = z + step * v
    reverse_mean, reverse_logvar = model.reverse[0](z, gradient, mean, logvar)
    log_reverse = plain.normal_log_prob(v, reverse_mean, reverse_logvar) + 0.5 * LATENT_DIM * math.log(2.0 * math.pi)
    return -(bound + log_joint + log_reverse).mean()


def fastvi_loss(objective: IWAE, model: HamiltonianPosterior, x: Tensor, seed: int | None = None) -> Tensor:
    """Return minus the bound, a mean over the batch."""
    return -objective(model, x, seed=seed).mean()


class _Products:
    """Matrix products in the order of a step, each into memory of its own that later ones read."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def up(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Forward through the layers: their inputs, and the output of the last one."""
        values = [x]
        for weight in weights:
            out = x.new_empty(len(x), len(weight))
            self.calls.append(partial(torch.mm, values[-1], weight.T, out=out))
            values.append(out)
        return values

    def down(
        self,
        weights: Sequence[Tensor],
        values: Sequence[Tensor],
        places: Sequence[Tensor] = (),
        others: Sequence[tuple[Tensor, Tensor]] = (),
        to_input: bool = True,
    ) -> list[Tensor]:
        """Backward: the gradient by each layer's input and the weights' into ``places``, two products with ``others``.

        Returns the gradients by the inputs, and that which came in.
        """
        gradients = [torch.randn_like(value) for value in values]
        for i in reversed(range(len(weights))):
            incoming = gradients[i + 1]
            if places:
                self.calls.append(partial(torch.mm, incoming.T, values[i], out=places[i]))
            if others:
                left, right = others[i]
                self.calls.append(partial(torch.addmm, places[i], left.T, right, out=places[i]))
            if i > 0 or to_input:
                self.calls.append(partial(torch.mm, incoming, weights[i], out=gradients[i]))
        return gradients

    def __call__(self) -> None:
        for call in self.calls:
            call()


def floor_of(model: PlainHamiltonian, batch: int) -> tuple[Call, Call]:
    """Return the matrix products of one step, in place, and followed by the memory that Adam moves.

    At each of the five positions the decoder has a product a layer for its output and one for the gradient by z. The
    derivative of both takes four: the direction of the outer gradient up through the layer, the gradient by the layer's
    input, and two for the weight's, which are added up.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    count = sum(parameter.numel() for parameter in model.parameters())
    weights, places, optimiser_pass = optimiser_memory([layer.weight for layer in layers], count)
    of_encoder, of_decoder, of_reverse = slice(0, 3), slice(3, 6), slice(6, 8)
    products = _Products()
    encoded = products.up(torch.randn(batch, DATA_DIM), weights[of_encoder])
    positions = []
    for _ in range(NUM_LEAPFROGS + 1):
        inputs = products.up(torch.randn(batch, LATENT_DIM), weights[of_decoder])
        positions.append((inputs, products.down(weights[of_decoder], inputs)))
    reversed_layers = []
    for weight, place in zip(weights[of_reverse], places[of_reverse], strict=True):
        inputs = products.up(torch.randn(batch, weight.shape[1]), [weight])
        reversed_layers.append(([weight], inputs, [place]))
    for layer, inputs, own_places in reversed(reversed_layers):
        products.down(layer, inputs, own_places)
    for inputs, gradients in reversed(positions):
        directions = products.up(torch.randn(batch, LATENT_DIM), weights[of_decoder])
        others = list(zip(gradients[1:], directions[:-1], strict=True))
        products.down(weights[of_decoder], inputs, places[of_decoder], others)
    products.down(weights[of_encoder], encoded, places[of_encoder], to_input=False)

    def floor() -> None:
        products()
        optimiser_pass()

    return products, floor


def _check_gradients(plain_model: PlainHamiltonian, fused: HamiltonianPosterior, x: Tensor, name: str) -> None:
    """With the same noise, the loss and its gradients are those of the plain model in float64."""
    exact = copy.deepcopy(plain_model).double()
    zeros = torch.zeros(len(x), LATENT_DIM, device=x.device)
    noise = [rsample_normal(zeros, zeros, seed=seed).double() for seed in (0, mix_seed(0, MOMENTUM_STREAM, 0))]
    expected = plain_loss(exact, x.double(), (noise[0], noise[1]))
    value = fastvi_loss(IWAE(1), fused, x, seed=0)
    assert_same_values(f"{name}, loss of {FASTVI}", value.detach(), expected.detach())
    names = [parameter_name for parameter_name, _ in fused.named_parameters()]
    targets = torch.autograd.grad(expected, [exact.get_parameter(each) for each in names])
    for each, found, target in zip(names, torch.autograd.grad(value, list(fused.parameters())), targets, strict=True):
        assert_same_values(f"{name}, gradient of {FASTVI}, {each}", found, target, TOLERANCE)


def _prepare(batch: int, name: str, mode: str, with_compile: bool) -> Workload:
    x = torch.bernoulli(torch.full((batch, DATA_DIM), 0.5))
    network = ReverseNetwork(LATENT_DIM, REVERSE_DIM)
    nn.init.normal_(network.head.weight, std=0.01)  # at its start all of its gradients but the last would be 0
    vae = VAE(DATA_DIM, LATENT_DIM, (HIDDEN_DIM, HIDDEN_DIM))
    fused = HamiltonianPosterior(vae, LATENT_DIM, 1, NUM_LEAPFROGS, STEP_SIZE, MAX_STEP_SIZE, reverse=network)
    plain_model = PlainHamiltonian()
    plain_model.load_state_dict(fused.state_dict())
    # torch.compile is not timed: the gradient inside of the loss is more than one program.
    calls, losses = steps_and_losses((plain_model, plain_loss), (fused, partial(fastvi_loss, IWAE(1))), x, False)
    calls[GEMMS], calls[FLOOR] = floor_of(plain_model, batch)

    def check() -> None:
        _check_gradients(plain_model, fused, x, name)
        check_losses(name, losses, x)

    return Workload(calls, check)


def hamiltonian_case(batch: int) -> Case:
    """Return the case of one batch size."""
    name = f"HVI step, batch {batch}, T 1, L {NUM_LEAPFROGS}"
    return Case("step", name, ("step",), partial(_prepare, batch, name))
