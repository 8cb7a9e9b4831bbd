"""What a user gets wrong: one clear line that says what came, what was expected, and what to try."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Exponential, Normal

from fastvi.mcmc import HMCAlgorithm, Ordered, Positive, SamplerWarning, Simplex, sample
from fastvi.mcmc.targets import LinearRegression

F64 = torch.float64
ZEROS = torch.zeros(4, 2, dtype=F64)
DATA = torch.arange(5.0, dtype=F64)


def standard(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def named(mu: Tensor, tau: Tensor) -> Tensor:
    return -0.5 * mu.square() - tau


REGRESSION = LinearRegression(torch.eye(2, dtype=F64), torch.ones(2, dtype=F64), intercept=True, scale=1.0)
NAMED: dict[str, Any] = {"mu": torch.zeros(4), "tau": torch.ones(4)}

MISTAKES: dict[str, tuple[type[Exception], str, Any, Any, dict[str, Any]]] = {
    "no samples": (ValueError, "num_samples must be 1 or more, got 0", standard, ZEROS, {"num_samples": 0}),
    "part of a sample": (TypeError, "num_samples must be an int, got float", standard, ZEROS, {"num_samples": 2.5}),
    "warm-up": (ValueError, "num_warmup must be 0 or more, got -1", standard, ZEROS, {"num_warmup": -1}),
    "thin": (ValueError, "thin must be 1 or more, got 0", standard, ZEROS, {"thin": 0}),
    "start_jitter": (
        ValueError,
        "start_jitter must be 0 or more, and finite, got -1",
        standard,
        ZEROS,
        {"start_jitter": -1.0},
    ),
    "seed": (ValueError, r"seed is -1, expected a number in \[0, 2\^63\)", standard, ZEROS, {"seed": -1}),
    "algorithm": (
        ValueError,
        "algorithm must be one of auto, hmc, mala, chees, meads, got 'nuts'",
        standard,
        ZEROS,
        {"algorithm": "nuts"},
    ),
    "algorithm's class": (
        TypeError,
        r"got <class .*HMCAlgorithm'>; write HMCAlgorithm\(\)",
        standard,
        ZEROS,
        {"algorithm": HMCAlgorithm},
    ),
    "option": (
        TypeError,
        "unexpected argument target_accept; the algorithm hmc has the options num_steps, .*target_acceptance",
        standard,
        ZEROS,
        {"target_accept": 0.9},
    ),
    "option of an object": (
        TypeError,
        r"the options num_steps belong to the algorithm: give them to HMCAlgorithm\(...\)",
        standard,
        ZEROS,
        {"algorithm": HMCAlgorithm(), "num_steps": 3},
    ),
    "one chain of ChEES": (
        ValueError,
        "ChEES: needs at least 2 chains",
        standard,
        ZEROS[:1],
        {"algorithm": "chees"},
    ),
    "no function": (TypeError, "log_prob must be a function or a target, got Tensor", ZEROS, ZEROS, {}),
    "arguments": (
        TypeError,
        r"log_prob must take mu, tau, got a function of \(mu, sigma",
        lambda mu, sigma: mu,
        NAMED,
        {},
    ),
    "scalar": (
        ValueError,
        r"one number for each of 4 chains, \(4,\), got the shape \(\) from x \(4, 2\): .*vectorize=True",
        lambda x: -x.square().sum(),
        ZEROS,
        {},
    ),
    "too many numbers": (ValueError, r"got the shape \(4, 2\)", lambda x: -x.square(), ZEROS, {}),
    "no tensor": (TypeError, "log_prob must return a tensor, got float", lambda x: 1.0, ZEROS, {}),
    "chains mixed": (
        ValueError,
        "the log density of a chain must depend on nothing but its own parameters",
        lambda x: -x.square().sum() + 0.0 * x[:, 0],
        ZEROS,
        {},
    ),
    "noise": (
        ValueError,
        "must depend on nothing but its own parameters.*use no fresh noise",
        lambda x: standard(x) + torch.rand(4),
        ZEROS,
        {},
    ),
    "no gradient": (ValueError, "has no gradient by the position", lambda x: x.detach().sum(-1), ZEROS, {}),
    "vectorize with many": (
        ValueError,
        r"with vectorize=True log_prob must return one number, the log density of one chain, got the shape \(2,\)",
        lambda x: -x.square(),
        ZEROS,
        {"vectorize": True},
    ),
    "control flow under vectorize": (
        ValueError,
        "log_prob cannot be vectorized: vmap.*: write it for all chains at once",
        lambda x: -x.square().sum() if x[0] > 0 else -x.abs().sum(),
        ZEROS,
        {"vectorize": True},
    ),
    "outside the support of a distribution": (
        ValueError,
        r"failed where the chains start: Expected .*\(GreaterThanEq\(.*needs a bijection such as Positive\(\)",
        lambda s: Exponential(torch.ones((), dtype=F64)).log_prob(s),
        {"s": -torch.ones(4, dtype=F64)},
        {},
    ),
    "one start taken for many": (
        ValueError,
        r"one row for each of 3 chains, .*one start for all chains needs num_chains",
        lambda mu: -mu.square().sum(1),
        {"mu": torch.zeros(3, dtype=F64)},
        {},
    ),
    "data without a dimension for them": (
        ValueError,
        r"one row for each of 4 chains, .*write mu\[:, None\] .*vectorize=True",
        lambda mu: -(mu - torch.zeros(20, dtype=F64)).square().sum(),
        {"mu": torch.zeros(4, dtype=F64)},
        {},
    ),
    "a branch": (
        ValueError,
        r"choose by torch.where\(condition, one, other\) instead of if",
        lambda mu: -mu.square() if mu > 0 else -mu.abs(),
        {"mu": torch.zeros(4, dtype=F64)},
        {},
    ),
    "NumPy": (
        ValueError,
        "use operations of torch alone, whose gradients are known",
        lambda mu: torch.from_numpy(-(mu.numpy() ** 2)),
        {"mu": torch.zeros(4, dtype=F64)},
        {},
    ),
    "half precision": (
        TypeError,
        "initial has the dtype torch.bfloat16, expected float32 or float64",
        standard,
        torch.zeros(4, 2, dtype=torch.bfloat16),
        {},
    ),
    "dtypes": (
        ValueError,
        "log_prob failed where the chains start: .*: initial has torch.float32, and the data must have it too",
        lambda x: -(x @ torch.ones(2, 5, dtype=F64) - DATA).square().sum(-1),
        torch.zeros(4, 2),
        {},
    ),
    "result elsewhere": (
        ValueError,
        "on the device of initial, cpu, got meta",
        lambda x: standard(x).to("meta"),
        ZEROS,
        {},
    ),
    "start elsewhere": (
        ValueError,
        "initial is on meta; chains run on a CPU or a CUDA device",
        standard,
        ZEROS.to("meta"),
        {},
    ),
    "start of integers": (
        TypeError,
        "initial has the dtype torch.int64, expected float32 or float64",
        standard,
        ZEROS.long(),
        {},
    ),
    "start of text": (TypeError, "initial must be a tensor, got str", standard, "0", {}),
    "start without parameters": (ValueError, "initial has no parameters", standard, {}, {}),
    "start of three dimensions": (
        ValueError,
        r"must have the shape \(C, D\) for C chains, or \(D,\) for one start of num_chains chains, got \(1, 4, 2\)",
        standard,
        ZEROS[None],
        {},
    ),
    "start not finite": (ValueError, "initial must be finite, got nan, nan in chain 0", standard, ZEROS / 0.0, {}),
    "numbers of chains differ": (
        ValueError,
        r"initial\['tau'\] has the shape \(3,\), whose first dimension counts chains: got 3, expected 4 of 'mu'",
        named,
        {"mu": torch.zeros(4), "tau": torch.ones(3)},
        {},
    ),
    "which dimension counts chains": (
        ValueError,
        "the first dimension of every parameter in initial is 4, as num_chains is",
        named,
        NAMED,
        {"num_chains": 4},
    ),
    "num_chains": (ValueError, r"got 4, expected 5, num_chains", standard, ZEROS, {"num_chains": 5}),
    "name": (
        ValueError,
        "names in initial must be such as Python's arguments have, got 'a b'",
        named,
        {"a b": ZEROS},
        {},
    ),
    "bijection's name": (
        ValueError,
        "bijections names 'sigma', but initial has 'mu', 'tau'",
        named,
        NAMED,
        {"bijections": {"sigma": Positive()}},
    ),
    "bijection's class": (TypeError, r"; write Positive\(\)", named, NAMED, {"bijections": {"tau": Positive}}),
    "bijections": (TypeError, "bijections must be a mapping of names", named, NAMED, {"bijections": Positive()}),
    "outside": (
        ValueError,
        r"initial\['mu'\] must be positive, got 0 in chain 0",
        named,
        NAMED,
        {"bijections": {"mu": Positive()}},
    ),
    "not increasing": (
        ValueError,
        r"initial\['v'\] must be increasing, got 0, 0 in chain 0",
        lambda v: standard(v),
        {"v": ZEROS},
        {"bijections": {"v": Ordered()}},
    ),
    "simplex of a number": (
        ValueError,
        r"bijections\['mu'\]: Simplex is for vectors of two and more parts",
        named,
        NAMED,
        {"bijections": {"mu": Simplex()}},
    ),
    "names of a target": (
        ValueError,
        "initial must have the target's coefficients, intercept, got coefficients, slope",
        REGRESSION,
        {"coefficients": torch.zeros(2, dtype=F64), "slope": 0.0},
        {},
    ),
    "size for a target": (
        ValueError,
        "initial has 4 values for each chain, the target has coefficients 2, intercept 1",
        REGRESSION,
        torch.zeros(4, dtype=F64),
        {},
    ),
    "no density at the start": (
        ValueError,
        r"the log density is not finite \(nan\) where chains 0, 1, 2, 3 of 4 start, at x \[0, 0\]: start inside",
        lambda x: standard(x) + (x[:, 0] - 1.0).log(),
        ZEROS,
        {},
    ),
    "no gradient at the start": (
        ValueError,
        "the gradient of the log density is not finite where chains",
        lambda x: -x.square().sum(-1).sqrt(),
        ZEROS,
        {},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_have_one_clear_line(mistake: str) -> None:
    error, message, log_prob, initial, options = MISTAKES[mistake]
    with pytest.raises(error, match=message) as caught:
        sample(log_prob, initial, **{"num_samples": 3, "num_warmup": 3, "progress": False, **options})
    assert "\n" not in str(caught.value)


def test_parameters_that_a_trajectory_meets_may_be_wrong() -> None:
    """A negative scale, which torch.distributions would refuse, has density 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        samples = sample(
            lambda x: Normal(0.0, x[:, 0]).log_prob(torch.tensor(1.0)) - x[:, 0],
            torch.ones(4, 1, dtype=F64),
            30,
            0,
            algorithm="hmc",
            step_size=0.3,
            seed=1,
            progress=False,
        )
    assert len(samples["x"].unique()) > 30
    assert (samples["x"] > 0).all()
    assert torch.distributions.Distribution._validate_args


def test_memory_is_taken_before_the_first_step() -> None:
    with pytest.raises(MemoryError, match=r"no memory for .* bytes, num_samples 1000000000000000 of 4 chains"):
        sample(standard, ZEROS, 10**15, 0, progress=False)
