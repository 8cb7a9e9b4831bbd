"""Evaluation: streaming against direct computation, exact bounds, active units."""

import dataclasses
import json
import types

import pytest
import torch

from fastvi.evaluate import active_units, evaluate, evaluation_rows, stream_bounds
from fastvi.evaluate import streaming as evaluation
from fastvi.models import VAE
from fastvi.objectives import log_weights
from fastvi.seeding import mix_seed
from support.linear_gaussian import STANDARD_ERRORS, make


def small_model():
    torch.manual_seed(0)
    return VAE(6, latent_dim=3, hidden_dims=(5,)).double(), torch.rand(7, 6, dtype=torch.float64).round()


@pytest.mark.parametrize(("num_samples", "chunk"), [(1, 1), (10, 3), (10, 10), (10, 64), (12, 4)])
def test_streaming_equals_direct_computation(num_samples, chunk):
    model, x = small_model()
    sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
    weights = torch.cat([log_weights(model, x, size, seed=mix_seed(5, part)) for part, size in enumerate(sizes)])
    bounds = stream_bounds(model, x, num_samples, chunk=chunk, seed=5)
    # float64 sums of at most twelve terms in another order.
    tolerance = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(bounds.elbo, weights.mean(0), **tolerance)
    torch.testing.assert_close(
        bounds.importance_weighted,
        torch.logsumexp(weights, 0) - torch.tensor(float(num_samples)).double().log(),
        **tolerance,
    )
    normalised = torch.softmax(weights, 0)
    torch.testing.assert_close(bounds.effective_sample_size, 1.0 / normalised.square().sum(0), **tolerance)


def test_every_tensor_is_on_the_device_of_the_model():
    """On "meta", which no other device's tensors may meet."""
    model, x = (part.to("meta") for part in small_model())
    for bound in vars(stream_bounds(model, x, 10, chunk=4)).values():
        assert bound.is_meta
        assert bound.shape == (7,)
    assert active_units(model, x).is_meta


def test_no_more_than_a_chunk_is_ever_held_and_the_encoder_runs_once():
    model, x = small_model()
    sizes, encoded = [], []

    def encode(x):
        encoded.append(len(x))
        return model.encode(x)

    def log_likelihood(x, z):
        sizes.append(len(z))
        return model.log_likelihood(x, z)

    recording = types.SimpleNamespace(encode=encode, log_likelihood=log_likelihood)
    stream_bounds(recording, x, 1000, chunk=64)
    assert sizes == [64] * 15 + [40]
    assert encoded == [len(x)]
    sizes.clear()
    stream_bounds(recording, x, 5000)
    assert max(sizes) * x.shape[0] <= evaluation.ROWS_AT_A_TIME
    assert sum(sizes) == 5000


def test_a_decoder_that_says_the_same_of_every_z_gives_the_evidence():
    """The network of the papers in float32, q(z|x) = p(z) and logits b for every z: all log-weights are
    log p(x) = sum_d x_d b_d - log(1 + exp(b_d)). 130 images are two batches, 100 samples several chunks."""
    torch.manual_seed(3)
    model = VAE(784, latent_dim=50, hidden_dims=(200, 200))
    with torch.no_grad():
        for part in (model.posterior_head.weight, model.posterior_head.bias, model.likelihood_head.weight):
            part.zero_()
        model.likelihood_head.bias.normal_()
    x = torch.rand(130, 784).round()
    logits = model.likelihood_head.bias.detach().double()
    exact = x.double() @ logits - torch.nn.functional.softplus(logits).sum()
    result = evaluate(model, x, num_samples=100)
    # Of each image 784 terms in float32, of about a thousand nats.
    for value in (result.elbo, result.importance_weighted, result.training_bound):
        assert value == pytest.approx(exact.mean().item(), rel=1e-5)
    assert result.standard_error == pytest.approx((exact.std() / 130**0.5).item(), rel=1e-3)
    assert result.effective_sample_size == pytest.approx(100.0, rel=1e-5)
    assert (result.active_units, result.latent_dim, result.reliable) == (0, 50, True)


def test_exact_posterior_gives_the_evidence_with_any_number_of_samples():
    model, x = make()
    model = model.with_exact_posterior()
    bounds = stream_bounds(model, x, 20, chunk=7)
    exact = model.log_marginal(x)
    # Every log-weight is log p(x) itself: float64 rounding of some ten terms remains.
    torch.testing.assert_close(bounds.importance_weighted, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bounds.elbo, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bounds.effective_sample_size, torch.full_like(exact, 20.0), rtol=1e-8, atol=0)


def test_many_samples_reach_the_evidence_and_their_mean_the_elbo():
    model, x = make()
    replicates, num_samples = 200, 2000
    bounds = stream_bounds(model.rows(replicates), x.expand(replicates, -1), num_samples, chunk=500, seed=1)

    def assert_mean(draws, expected, bias=0.0):
        standard_error = draws.std() / replicates**0.5
        assert abs(draws.mean() - expected) <= STANDARD_ERRORS * standard_error + bias

    assert_mean(bounds.elbo, model.elbo(x))
    # L_K lies below log p(x) by Var(w) / (2 K E[w]^2) to first order (Burda 2016, theorem 1; Domke & Sheldon 2018),
    # which the effective sample size tells: Var / E^2 = K / ESS - 1.
    bias = 0.5 * (1.0 / bounds.effective_sample_size - 1.0 / num_samples).mean()
    assert_mean(bounds.importance_weighted, model.log_marginal(x), bias=2.0 * bias)


def test_draws_of_a_row_do_not_depend_on_the_batch():
    model, x = small_model()
    whole = stream_bounds(model, x, 10, chunk=5, seed=2)
    part = stream_bounds(model, x[4:], 10, chunk=5, seed=2, row_offset=4)
    # A matrix product of another size may add in another order.
    torch.testing.assert_close(part.importance_weighted, whole.importance_weighted[4:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"num_samples": 3, "chunk": 0}])
def test_numbers_that_are_not_positive_are_refused(options):
    model, x = small_model()
    with pytest.raises(ValueError, match=r"stream_bounds: (num_samples|chunk) must be at least 1, got 0"):
        stream_bounds(model, x, **options)


def test_active_units_are_those_whose_mean_varies():
    model = VAE(4, latent_dim=3, hidden_dims=(4,))
    x = torch.rand(1000, 4)
    with torch.no_grad():
        model.posterior_head.weight[:3] = 0.0
        model.posterior_head.weight[0] = 10.0
        model.posterior_head.weight[2] = 1e-4
    assert active_units(model, x).tolist() == [True, False, False]
    assert active_units(model, x, threshold=0.0).tolist() == [True, False, True]


def test_evaluation_gathers_the_batches():
    model, _ = small_model()
    images = torch.rand(150, 6, dtype=torch.float64).round()
    rows = []
    result = evaluate(
        model, images, num_samples=50, training_num_samples=4, chunk=16, test_images=900, seed=3, on_rows=rows.append
    )
    assert (result.images, result.test_images, result.num_samples, result.latent_dim) == (150, 900, 50, 3)
    assert sum(rows) == evaluation_rows(150, 50, 4)
    assert result.elbo < result.training_bound < result.importance_weighted
    assert 1.0 <= result.effective_sample_size <= 50.0
    assert 0.0 < result.standard_error < 1.0
    first = stream_bounds(model, images[:128], 50, chunk=16, seed=mix_seed(3, 0))
    second = stream_bounds(model, images[128:], 50, chunk=16, seed=mix_seed(3, 0), row_offset=128)
    both = torch.cat([first.importance_weighted, second.importance_weighted])
    assert result.importance_weighted == both.mean().item()
    assert result.as_dict()["active_units"] == int(active_units(model, images).sum())


def test_one_image_has_no_standard_error():
    """One image tells nothing of the spread over images: null in JSON, not NaN."""
    model, x = small_model()
    result = evaluate(model, x[:1], num_samples=50)
    assert (result.images, result.standard_error, result.active_units, result.latent_dim) == (1, None, None, 3)
    bounds = stream_bounds(model, x[:1], 50, seed=mix_seed(0, 0))
    assert result.importance_weighted == bounds.importance_weighted.item()
    written = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert written["standard_error"] is None
    assert written["active_units"] is None
    with pytest.raises(ValueError, match="active_units: a variance needs at least two examples, x holds 1"):
        active_units(model, x[:1])


def test_no_image_is_an_error():
    model, x = small_model()
    with pytest.raises(ValueError, match="evaluate: images holds no image"):
        evaluate(model, x[:0])
    with pytest.raises(ValueError, match="active_units: a variance needs at least two examples, x holds 0"):
        active_units(model, x[:0])
    assert stream_bounds(model, x[:0], 3).elbo.shape == (0,)


@pytest.mark.parametrize("nats", [-torch.inf, torch.nan])
def test_figures_are_always_json(nats):
    """A model that explains no image: its bound is not a number, and JSON has a word for that."""
    model, x = small_model()
    impossible = types.SimpleNamespace(
        encode=model.encode, log_likelihood=lambda x, z: torch.full(z.shape[:-1], nats, dtype=z.dtype)
    )
    result = evaluate(impossible, x, num_samples=5)
    assert not result.reliable
    written = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (written["elbo"], written["importance_weighted"], written["reliable"]) == (None, None, False)
    assert set(written) == {field.name for field in dataclasses.fields(result)} - {"figures"}  # the model has none


def with_posterior_off_by(distance, images, dim=2):
    """q(z|x) = N(distance, I) where the exact posterior is N(0, I): the weights are log-normal, all is known."""
    mean = torch.full((images, dim), distance / dim**0.5, dtype=torch.float64)
    return types.SimpleNamespace(
        encode=lambda x: (mean[: len(x)], torch.zeros_like(mean)[: len(x)]),
        log_likelihood=lambda x, z: torch.zeros(z.shape[:-1], dtype=z.dtype),
    )


def test_a_bound_of_a_few_effective_samples_is_marked():
    """1 + Var(w) / E[w]^2 = exp(d^2) for N(d, I) against N(0, I): of 5,000 samples some 1,839 count where d = 1, and
    where d = 4 less than a thousandth of one would, so that one or two lead. log p(x) = 0, and L_K is nats below."""
    x = torch.zeros(50, 1, dtype=torch.float64)
    good = evaluate(with_posterior_off_by(1.0, 50), x, num_samples=5000)
    # The mean ratio over 50 images of 5,000 samples each; its relative deviation is a few hundredths.
    assert good.effective_sample_size == pytest.approx(5000.0 / torch.e, rel=0.1)
    assert (good.reliable, good.unreliable_images) == (True, 0)
    assert abs(good.importance_weighted) < 0.01
    bad = evaluate(with_posterior_off_by(4.0, 50), x, num_samples=5000)
    assert not bad.reliable
    assert bad.unreliable_images > 25
    assert bad.median_effective_sample_size < 10.0
    assert bad.importance_weighted < -0.3
    assert json.loads(json.dumps(bad.as_dict()))["reliable"] is False


@pytest.mark.parametrize(("spoilt", "reliable"), [(0, True), (5, True), (6, False), (50, False)])
def test_a_tenth_of_the_images_may_be_unreliable(spoilt, reliable):
    distances = torch.where(torch.arange(50) < spoilt, 8.0, 0.0).double().unsqueeze(1)
    model = with_posterior_off_by(0.0, 50, dim=1)
    model.encode = lambda x: (x, torch.zeros_like(x))
    result = evaluate(model, distances, num_samples=500)
    assert (result.unreliable_images, result.reliable) == (spoilt, reliable)


def test_few_samples_may_all_count():
    """Equal weights are log p(x) itself, whatever K is; one sample alone cannot tell whether its weight is."""
    model, x = make()
    result = evaluate(model.with_exact_posterior(), x, num_samples=5)
    assert result.effective_sample_size == pytest.approx(5.0)
    assert result.importance_weighted == pytest.approx(model.log_marginal(x).item())
    assert result.reliable
    assert not evaluate(model.with_exact_posterior(), x, num_samples=1).reliable


def test_ten_of_many_samples_are_enough():
    """0.05 nats: n equal weights among 5,000 are n effective samples, and 1 / (2 n) - 1 / 10,000 is the bias."""
    for counting, reliable in ((9, False), (10, True), (11, True)):
        model = with_posterior_off_by(0.0, 3, dim=1)
        log_w = torch.full((5000, 3), -torch.inf, dtype=torch.float64)
        log_w[:counting] = 0.0
        model.log_likelihood = lambda x, z, log_w=log_w: log_w
        result = evaluate(model, torch.zeros(3, 1), num_samples=5000, training_num_samples=5000, chunk=5000)
        assert result.median_effective_sample_size == pytest.approx(counting)
        assert result.reliable == reliable, counting


def test_integers_stay_integers_and_results_do_not():
    """x of a model of words is int64: the bounds have the model's own type."""
    embedding = torch.nn.Embedding(10, 4)
    model = types.SimpleNamespace(
        encode=lambda x: embedding(x).chunk(2, -1), log_likelihood=lambda x, z: -z.square().sum(-1)
    )
    bounds = stream_bounds(model, torch.arange(10), 8, chunk=3)
    assert {value.dtype for value in vars(bounds).values()} == {torch.float32}
    assert bounds.elbo.unique().numel() > 1
    assert (bounds.elbo != bounds.elbo.round()).any()
