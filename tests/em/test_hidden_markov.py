"""Hidden Markov models against the enumeration of all paths of states."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm, poisson
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from fastvi.em import HiddenMarkovModel, Mixture, Poisson, _chains
from fastvi.em._chains import best_path, forward_backward

pytestmark = pytest.mark.cpu_kernels


def problem(states: int, lengths: list[int], seed: int, impossible: bool = False) -> tuple[torch.Tensor, ...]:
    random = np.random.default_rng(seed)
    start, transition = random.dirichlet(np.ones(states)), random.dirichlet(np.ones(states), size=states)
    if impossible:
        transition[0, -1], start[-1] = 0.0, 0.0
    with np.errstate(divide="ignore"):
        log_start, log_transition = np.log(start / start.sum()), np.log(transition / transition.sum(1, keepdims=True))
    log_densities = 3.0 * random.normal(size=(sum(lengths), states))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return tuple(torch.from_numpy(each) for each in (log_densities, starts, log_start, log_transition))


def enumerate_paths(log_densities: np.ndarray, log_start: np.ndarray, log_transition: np.ndarray) -> dict[str, object]:
    """One sequence: sums over all states ** rows paths."""
    rows, states = log_densities.shape
    paths = list(itertools.product(range(states), repeat=rows))
    joint = np.array(
        [
            log_start[path[0]]
            + sum(log_transition[i, j] for i, j in itertools.pairwise(path))
            + sum(log_densities[t, state] for t, state in enumerate(path))
            for path in paths
        ]
    )
    total = logsumexp(joint)
    posteriors, transitions = np.zeros((rows, states)), np.zeros((states, states))
    for path, probability in zip(paths, np.exp(joint - total), strict=True):
        for t, state in enumerate(path):
            posteriors[t, state] += probability
        for i, j in itertools.pairwise(path):
            transitions[i, j] += probability
    return {"total": total, "posteriors": posteriors, "transitions": transitions, "best": paths[int(joint.argmax())]}


@pytest.mark.parametrize("route", ["native", "formula"])
@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize(("states", "lengths"), [(1, [3]), (2, [1, 5, 2]), (3, [6, 4]), (5, [4, 1, 1])])
def test_all_paths(states: int, lengths: list[int], impossible: bool, route: str) -> None:
    if impossible and states == 1:
        return  # there would be no path
    for seed in range(3):
        arguments = problem(states, lengths, seed, impossible)
        log_densities, starts, log_start, log_transition = (each.numpy() for each in arguments)
        expected = [
            enumerate_paths(log_densities[begin:end], log_start, log_transition)
            for begin, end in itertools.pairwise(starts)
        ]
        run = forward_backward if route == "native" else _chains._forward_backward_formula
        found = run(*arguments)
        assert found.log_likelihood == pytest.approx(sum(each["total"] for each in expected), rel=1e-12)
        posteriors = np.concatenate([each["posteriors"] for each in expected])
        np.testing.assert_allclose(found.posteriors, posteriors, atol=1e-12)
        np.testing.assert_allclose(found.transitions, sum(each["transitions"] for each in expected), atol=1e-12)
        paths = np.concatenate([each["best"] for each in expected])
        np.testing.assert_array_equal(best_path(*arguments), paths)


def test_a_sequence_of_probability_zero() -> None:
    log_densities, starts, log_start, log_transition = problem(3, [4, 2], seed=0)
    log_densities[4:] = -np.inf
    for run in (forward_backward, _chains._forward_backward_formula):
        found = run(log_densities, starts, log_start, log_transition)
        assert found.log_likelihood == -np.inf
        assert (found.posteriors[4:] == 0).all()
        torch.testing.assert_close(found.posteriors[:4].sum(-1), torch.ones(4, dtype=torch.float64))


def test_long_sequences_do_not_underflow() -> None:
    """Identical rows: the log-likelihood of independent ones, n times that of a row."""
    states, rows = 4, 3000
    log_densities = torch.full((rows, states), -50.0, dtype=torch.float64)
    uniform = torch.full((states,), -np.log(states), dtype=torch.float64)
    found = forward_backward(
        log_densities, torch.tensor([0, rows]), uniform, uniform.expand(states, states).contiguous()
    )
    assert found.log_likelihood == pytest.approx(-50.0 * rows, rel=1e-12)
    torch.testing.assert_close(found.posteriors, torch.full((rows, states), 0.25, dtype=torch.float64))


def test_the_same_bits_for_any_number_of_threads() -> None:
    arguments = problem(6, [37] * 90 + [1, 200], seed=0)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(forward_backward(*arguments))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert other.log_likelihood == found[0].log_likelihood
        assert torch.equal(other.posteriors, found[0].posteriors)
        assert torch.equal(other.transitions, found[0].transitions)


def fit(model: HiddenMarkovModel, x: object, lengths: object = None) -> HiddenMarkovModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, lengths=lengths)


def test_the_likelihood_of_a_fitted_model() -> None:
    """Normal and Poisson emissions of the attributes, by enumeration."""
    random = np.random.default_rng(0)
    x, lengths = random.normal(size=(9, 1)), [5, 4]
    model = fit(HiddenMarkovModel(2, reg_covar=1e-2, max_iter=3, random_state=0), x, lengths)
    densities = norm.logpdf(x, model.means_[:, 0], np.sqrt(model.covariances_[:, 0]))
    counts = random.poisson(3.0, size=(9, 1)).astype(float)
    of_counts = fit(HiddenMarkovModel(2, Poisson(), max_iter=3, random_state=0), counts, lengths)
    for fitted, rows, log_densities in (
        (model, x, densities),
        (of_counts, counts, poisson.logpmf(counts, of_counts.means_[:, 0])),
    ):
        with np.errstate(divide="ignore"):
            tables = np.log(fitted.startprob_), np.log(fitted.transmat_)
        expected = [enumerate_paths(log_densities[part], *tables) for part in (slice(0, 5), slice(5, 9))]
        total = sum(each["total"] for each in expected)
        assert fitted.score(rows, lengths=lengths) == pytest.approx(total / 9, rel=1e-9)
        posteriors = np.concatenate([each["posteriors"] for each in expected])
        np.testing.assert_allclose(fitted.predict_proba(rows, lengths=lengths), posteriors, atol=1e-9)
        paths = np.concatenate([each["best"] for each in expected])
        np.testing.assert_array_equal(fitted.predict(rows, lengths=lengths), paths)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_the_bound_never_decreases(covariance_type: str) -> None:
    for seed in range(15):
        random = np.random.default_rng(seed)
        x = np.repeat(random.normal(size=(30, 2)), 3, axis=0) + 0.5 * random.normal(size=(90, 2))
        options = {"covariance_type": covariance_type, "reg_covar": 0.0, "tol": 0.0, "random_state": seed}
        bounds = fit(HiddenMarkovModel(1 + seed % 3, max_iter=8, **options), x, [40, 50]).bounds_
        assert (np.diff(bounds) > -1e-11 * np.abs(bounds).max()).all(), f"seed {seed}: {bounds}"


def test_independent_rows_are_a_mixture() -> None:
    """Sequences of one row: the first states' probabilities are a mixture's weights."""
    random = np.random.default_rng(0)
    x = random.poisson(random.choice([1.0, 8.0], size=(200, 1)), size=(200, 2)).astype(float)
    means = [[1.0, 1.0], [5.0, 6.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = Mixture("poisson", 2, means_init=means, weights_init=[0.5, 0.5], max_iter=7, tol=0.0).fit(x)
    model = fit(HiddenMarkovModel(2, "poisson", means_init=means, max_iter=7, tol=0.0), x, np.ones(200, dtype=int))
    np.testing.assert_allclose(model.bounds_, mixture.bounds_)
    np.testing.assert_allclose(model.startprob_, mixture.weights_)
    np.testing.assert_allclose(model.means_, mixture.means_)


def test_a_model_is_found_again() -> None:
    transmat, means = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([[-2.0], [2.0]])
    random = np.random.default_rng(1)
    states = [0]
    for _ in range(3999):
        states.append(int(random.uniform() > transmat[states[-1], 0]))
    x = means[states] + random.normal(size=(4000, 1))
    model = HiddenMarkovModel(2, random_state=0).fit(torch.from_numpy(x))
    order = model.means_[:, 0].argsort()
    np.testing.assert_allclose(model.means_[order], means, atol=0.1)
    np.testing.assert_allclose(model.transmat_[order][:, order], transmat, atol=0.04)
    drawn, drawn_states = model.sample(4000)
    assert drawn.shape == (4000, 1)
    stays = (drawn_states[1:] == order[0])[drawn_states[:-1] == order[0]].mean()
    assert stays == pytest.approx(model.transmat_[order[0], order[0]], abs=0.03)
    assert isinstance(model.predict(torch.from_numpy(x)), torch.Tensor)


def test_scikit_learns_checks() -> None:
    in_time = "rows are in the order of time: what a state is depends on the rows around it"
    failing = {"check_methods_subset_invariance": in_time, "check_methods_sample_order_invariance": in_time}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found in check_estimator(HiddenMarkovModel(2), on_fail=None, expected_failed_checks=failing):
            message = f"{found['check_name']}: {found['exception']}"
            assert found["status"] in ("passed", "skipped", "xfail"), message


@pytest.mark.parametrize(
    ("options", "lengths", "message"),
    [
        ({}, [5, 6], "lengths sum to 11, expected the 10 rows of X"),
        ({}, [10, 0], "lengths must be integers of 1 or more"),
        ({}, [5.0, 5.0], "lengths must be integers of 1 or more"),
        ({"n_components": 11}, None, "got 10 rows for 11 states"),
        ({"transmat_init": [[1.0, 1.0], [0.5, 0.5]]}, None, "transmat_init must be 0 or more and sum to 1"),
        ({"startprob_init": [1.0]}, None, r"startprob_init has shape \(1,\), expected \(2,\)"),
        ({"covariance_type": "round"}, None, "covariance_type must be one of full, tied, diag, spherical, got 'round'"),
        ({"family": "gamma"}, None, "family must be one of gaussian, bernoulli, poisson"),
        ({"max_iter": -1}, None, "max_iter must be an integer of 0 or more, got -1"),
    ],
)
def test_one_clear_line(options: dict[str, object], lengths: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^HiddenMarkovModel: {message}"):
        HiddenMarkovModel(**{"n_components": 2, **options}).fit(
            np.random.default_rng(0).normal(size=(10, 2)), lengths=lengths
        )
