"""The page of recipes: its examples run; missing values and example weights are what it says of them."""

import doctest
from pathlib import Path

import pytest
import torch

from fastvi.models import VAE
from fastvi.objectives import ELBO, IWAE, STL, DReG

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
every_objective = pytest.mark.parametrize(
    "objective", [ELBO(2), ELBO(2, analytic_kl=False), STL(2), IWAE(3), IWAE(3, 2), DReG(3)], ids=str
)


def test_the_examples_run():
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 30
    assert results.failed == 0


@pytest.fixture(scope="module")
def with_missing():
    """The class as the page has it."""
    names = {}
    for example in doctest.DocTestParser().get_examples(PAGE.read_text(encoding="utf-8")):
        if example.source.startswith(("import", "from", "class WithMissing")):
            exec(example.source, names)
    torch.manual_seed(0)
    return names["WithMissing"](6, 2, (5,)).double()


class Observed(VAE):
    """A model of the observed values alone, the same in all examples."""

    def __init__(self, model, columns):
        super().__init__(6, 2, (5,))
        self.double().load_state_dict(model.state_dict())
        self.columns = columns

    def log_likelihood(self, x, z):
        logits = self.likelihood_head(self.decoder(z))[..., self.columns]
        probabilities = torch.distributions.Bernoulli(logits=logits)
        return probabilities.log_prob(x[:, self.columns].expand_as(logits)).sum(-1)


@every_objective
def test_missing_values_have_no_term(with_missing, objective):
    x = torch.rand(4, 6, dtype=torch.float64).round()
    observed = torch.tensor([True, False, True, True, False, True]).expand(4, 6)
    reference = Observed(with_missing, observed[0])
    outcomes = []
    for model, data in ((with_missing, (x, observed)), (reference, x * observed)):
        value = objective(model, data, seed=1)
        outcomes.append((value.detach(), torch.autograd.grad(value.sum(), list(model.parameters()))))
    torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-12)


@every_objective
def test_a_weight_is_so_many_examples(objective):
    """An integer weight is the same as the example so many times with its own noise, which no other example changes."""
    torch.manual_seed(0)
    model, x = VAE(6, 2, (5,)).double(), torch.rand(3, 6, dtype=torch.float64).round()
    weights = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)
    weighted = torch.autograd.grad((weights * objective(model, x, seed=1)).sum(), list(model.parameters()))
    total = sum(
        objective(model, x[b : b + 1], seed=1, row_offset=b).sum() for b in range(3) for _ in range(int(weights[b]))
    )
    torch.testing.assert_close(torch.autograd.grad(total, list(model.parameters())), weighted, rtol=1e-9, atol=1e-10)
