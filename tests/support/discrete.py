"""Models with a few discrete latent variables, all of whose draws are enumerated: expectations are finite sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, OneHotCategorical

from fastvi.models import CategoricalVAE, DiscreteLatentModel, SigmoidBeliefNetwork

DATA = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
"""Two examples, three pixels."""

KINDS = ("one layer", "two layers", "three layers", "categorical")
BITS = {"one layer": (3,), "two layers": (2, 1), "three layers": (1, 1, 1), "small": (2,)}


class SetStates:
    """Of a model: the states that it draws are set, and its uniforms are of no importance."""

    chosen: tuple[Tensor, ...]

    def states(self, layer: int, means: Tensor, uniforms: Tensor) -> Tensor:
        return self.chosen[layer]

    def sample_prior_and_data(self, x, *, seed=None, row_offset=0):
        return self.made_up


class SetNetwork(SetStates, SigmoidBeliefNetwork):
    pass


class SetCategorical(SetStates, CategoricalVAE):
    pass


def make(kind: str, **options: object) -> DiscreteLatentModel:
    """A float64 model whose parameters are all drawn anew, biases too."""
    if kind == "categorical":
        model: DiscreteLatentModel = SetCategorical(3, 1, 3, (4,), **options)
    else:
        model = SetNetwork(3, BITS[kind], **options)
    generator = torch.Generator().manual_seed(len(kind))
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def configurations(model: DiscreteLatentModel) -> list[Tensor]:
    """Every state of the latent variables, ``(S, ...)`` for each layer."""
    if isinstance(model, CategoricalVAE):
        return [torch.eye(3, dtype=torch.float64).unsqueeze(1)]
    sizes = [shape[0] for shape in model.latent_shapes]
    return list(every_bits(sum(sizes)).split(sizes, -1))


def every_bits(count: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=torch.float64)


def table(model: DiscreteLatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z|x) of every state, ``(S, B)``, by the distributions of PyTorch."""
    layers = [states.unsqueeze(1) for states in configurations(model)]
    if isinstance(model, CategoricalVAE):
        (z,) = layers
        logits = model.encoder(x).reshape(len(x), 1, 3)
        prior = OneHotCategorical(logits=model.prior_logits).log_prob(z).sum(-1)
        pixels = model.likelihood_head(model.decoder(z.flatten(-2)))
        return bits(x, pixels) + prior, OneHotCategorical(logits=logits).log_prob(z).sum(-1)
    joint, posterior = bits(layers[-1], model.prior_logits), torch.zeros(())
    for number, (below, states) in enumerate(itertools.pairwise([x, *layers])):
        joint = joint + bits(below, model.decoder[number](states))
        posterior = posterior + bits(states, model.encoder[number](below))
    return joint, posterior


def bits(values: Tensor, logits: Tensor) -> Tensor:
    values, logits = torch.broadcast_tensors(values, logits)
    return Bernoulli(logits=logits).log_prob(values).sum(-1)


def draws(model: DiscreteLatentModel, num_samples: int) -> Tensor:
    """Every draw of K states: their numbers, ``(S ** K, K)``."""
    count = len(configurations(model)[0])
    return torch.tensor(list(itertools.product(range(count), repeat=num_samples)))


def log_weights_of(model: DiscreteLatentModel, x: Tensor, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p and log q of every draw, ``(draws, K, B)``, and the draws' probabilities ``(draws, B)``."""
    joint, posterior = (part[draws(model, num_samples)] for part in table(model, x))
    return joint, posterior, posterior.sum(1).exp()


def exact_bound(model: DiscreteLatentModel, x: Tensor, num_samples: int) -> Tensor:
    """L_K of each example; K = 1 is the ELBO."""
    joint, posterior, probability = log_weights_of(model, x, num_samples)
    bounds = torch.logsumexp(joint - posterior, 1) - math.log(num_samples)
    return (probability * bounds).sum(0)


def gradients(total: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Of each parameter; zeros where it is not reached."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def set_draws(model: DiscreteLatentModel, x: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Let the model draw every draw, one a row: the rows' data, examples first, and their probabilities."""
    numbers = draws(model, num_samples)
    model.chosen = tuple(states[numbers.repeat(len(x), 1).t()] for states in configurations(model))
    probability = log_weights_of(model, x, num_samples)[2].detach()
    return x.repeat_interleave(len(numbers), 0), probability.t().flatten()


Objective = Callable[..., Tensor]


def expectation(
    objective: Objective, model: DiscreteLatentModel, num_samples: int, x: Tensor = DATA
) -> tuple[Tensor, dict[str, Tensor]]:
    """Expected value of each example and expected gradient of their sum, over every draw."""
    rows, probability = set_draws(model, x, num_samples)
    weighed = probability * objective(model, rows, seed=0)
    return weighed.detach().reshape(len(x), -1).sum(1), gradients(weighed.sum(), model)


def second_moments(
    objective: Objective, model: DiscreteLatentModel, num_samples: int, parameters: Sequence[nn.Parameter]
) -> Tensor:
    """E of the squared norm of the first example's gradient in these parameters, over every draw."""
    rows, probability = set_draws(model, DATA[:1], num_samples)
    values = objective(model, rows, seed=0)
    total = torch.zeros((), dtype=torch.float64)
    for value, mass in zip(values, probability, strict=True):
        for gradient in torch.autograd.grad(value, parameters, retain_graph=True):
            total = total + mass * gradient.square().sum()
    return total


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To rounding of float64: some hundred summands of a few nats each."""
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0.0, atol=1e-12, msg=lambda text, name=name: name + text)
