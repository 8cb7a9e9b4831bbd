"""M2: its bound against closed forms of a linear-Gaussian model with labels, and against enumeration of the classes."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from fastvi.models import VAE, SemiSupervisedOptions, SemiSupervisedVAE, make_model_options
from fastvi.objectives import PartlyLabelled, SemiSupervised, unlabelled_bound
from fastvi.objectives.draws import draw
from fastvi.objectives.semi_supervised import with_gradient_times

B, D, C, Z = 7, 5, 3, 2
ROUNDING = {"rtol": 0.0, "atol": 1e-9}
"""Float64 sums of some ten terms of size 10 and less, through layers that hold a number as the difference of two."""
GENERATOR = torch.Generator().manual_seed(3)
VARIANCE = 0.5
W = torch.linalg.qr(torch.randn(D, Z, generator=GENERATOR, dtype=torch.float64)).Q * torch.tensor([1.5, 0.7])
"""Orthogonal columns, so that the exact posterior has independent latent variables."""
OFFSETS = torch.randn(C, D, generator=GENERATOR, dtype=torch.float64)
PRECISION = 1.0 + W.square().sum(0) / VARIANCE


def linear_gaussian(shift=0.0, scale=1.0):
    """M2 with p(x|y, z) = N(W z + b_y, VARIANCE); q(y|x) exact, q(z|x, y) exact but for ``shift`` and ``scale``.

    A linear map through ReLU layers: h = relu((a, -a)) has a = h1 - h2.
    """
    model = SemiSupervisedVAE(D, C, Z, (2 * D,), (2 * D,), "relu", "real-gaussian").double()
    both = torch.cat([torch.eye(D), -torch.eye(D)]).double()
    apart = torch.cat([torch.eye(D), -torch.eye(D)], 1).double()
    to_mean = W.t() / VARIANCE / PRECISION.unsqueeze(1)
    covariance = W @ W.t() + VARIANCE * torch.eye(D, dtype=torch.float64)
    per_class = torch.linalg.solve(covariance, OFFSETS.t()).t()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.classifier[0].weight.copy_(both)
        model.classifier[2].weight.copy_(per_class @ apart)
        model.classifier[2].bias.copy_(-0.5 * (per_class * OFFSETS).sum(1))
        model.encoder_input.weight.copy_(both)
        model.encoder_label.copy_(torch.cat([-OFFSETS, OFFSETS], 1))
        model.encoder[0].weight[:Z].copy_(to_mean @ apart)
        model.encoder[0].bias[:Z] = shift
        model.encoder[0].bias[Z:] = -PRECISION.log() + 2.0 * math.log(scale)
        forward = torch.cat([W, OFFSETS.t()], 1)
        model.decoder[0].weight.copy_(both @ forward)
        model.decoder[2].weight[:D].copy_(apart)
        model.decoder[2].bias[D:] = math.log(VARIANCE)
    return model


def evidence(x):
    """log p(x, y) of each class, (C, B), in closed form."""
    covariance = W @ W.t() + VARIANCE * torch.eye(D, dtype=torch.float64)
    return torch.stack([MultivariateNormal(b, covariance).log_prob(x) for b in OFFSETS]) - math.log(C)


def data():
    return 2.0 * torch.randn(B, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def exact_noise(count):
    """Points whose mean is 0 and whose covariance is I: the mean over them of any quadratic is its expectation."""
    points = math.sqrt(Z) * torch.cat([torch.eye(Z), -torch.eye(Z)]).double()
    return points.unsqueeze(1).expand(-1, count, -1)


def gap(shift, scale):
    """KL(q || posterior) of Gaussians with the posterior's mean moved and its deviation scaled."""
    posterior = Normal(torch.zeros(Z).double(), PRECISION.rsqrt())
    return kl_divergence(Normal(posterior.mean + shift, posterior.stddev * scale), posterior).sum()


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.7), (-0.2, 0.4)])
def test_bound_of_each_class_in_closed_form(shift, scale):
    x, model = data(), linear_gaussian(shift, scale)
    bounds = model.label_bounds(x, exact_noise(B))
    torch.testing.assert_close(bounds, evidence(x) - gap(shift, scale), **ROUNDING)
    labels = torch.arange(B) % C
    torch.testing.assert_close(
        model.bound_of_labels(x, labels, exact_noise(B)), bounds[labels, torch.arange(B)], **ROUNDING
    )


def test_unlabelled_bound_is_log_p_of_x_where_both_posteriors_are_exact():
    x, model = data(), linear_gaussian()
    posterior = evidence(x).log_softmax(0).t()
    torch.testing.assert_close(model.log_classifier(x), posterior, **ROUNDING)
    found = unlabelled_bound(model.log_classifier(x), model.label_bounds(x, exact_noise(B)))
    torch.testing.assert_close(found, evidence(x).logsumexp(0), **ROUNDING)
    # And lower by KL(q(y|x) || p(y|x)) + KL(q(z|x, y) || p(z|x, y)) where they are not.
    with torch.no_grad():
        model.classifier[2].bias[0] += 1.0
    log_q = model.log_classifier(x)
    lower = (log_q.exp() * (log_q - posterior)).sum(1)
    found = unlabelled_bound(log_q, model.label_bounds(x, exact_noise(B)))
    torch.testing.assert_close(found, evidence(x).logsumexp(0) - lower, **ROUNDING)


def test_draws_weigh_the_evidence_exactly_at_the_exact_posterior():
    x, model = data(), linear_gaussian()
    labels = torch.tensor([0, -1, 2, -1, 1, 1, -1])
    expected = torch.where(labels < 0, evidence(x).logsumexp(0), evidence(x)[labels, torch.arange(B)])
    drawn = draw(model, (x, labels), 4, seed=1)
    torch.testing.assert_close(drawn.log_weights, expected.expand(4, -1), **ROUNDING)
    assert drawn.samples.shape == (4, B, C * Z)
    torch.testing.assert_close(draw(model, x, 2, seed=1).log_weights[0], evidence(x).logsumexp(0), **ROUNDING)
    torch.testing.assert_close(model.log_joint(x, 130, seed=2), evidence(x), **ROUNDING)
    assert torch.equal(model.classify(x), evidence(x).argmax(0))
    assert torch.equal(model.classify(x, num_samples=3), evidence(x).argmax(0))


def test_weights_of_a_draw_are_unbiased():
    """With a wrong posterior, the mean of w is p(x): here to five standard errors of 40,000 samples."""
    x, model = data(), linear_gaussian(0.2, 1.2)
    log_w = draw(model, x, 40_000, seed=5).log_weights
    ratio = (log_w - evidence(x).logsumexp(0)).exp()
    assert (ratio.std(0) > 1e-3).all()
    assert ((ratio.mean(0) - 1.0).abs() < 5.0 * ratio.std(0) / 200.0).all()


def bernoulli_model(**options):
    torch.manual_seed(0)
    model = SemiSupervisedVAE(D, C, Z, (6, 4), (3,), "tanh", **options).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def plain_bounds(model, x, noise):
    """L(x, y) of one sample by PyTorch's distributions, class after class: (C, B)."""
    bounds = []
    for label in range(C):
        one_hot = torch.eye(C, dtype=torch.float64)[label].expand(len(x), C)
        hidden = torch.tanh(model.encoder_input(x) + model.encoder_label[label])
        mean, logvar = model.encoder(hidden).chunk(2, -1)
        q = Normal(mean, torch.exp(0.5 * logvar))
        z = mean + q.stddev * noise
        logits = model.decoder(torch.cat([z, one_hot], -1))
        divergence = kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(-1)
        bounds.append(Bernoulli(logits=logits).log_prob(x).sum(-1) - divergence - math.log(C))
    return torch.stack(bounds)


@pytest.mark.parametrize("weight", [None, 2.5])
def test_objective_and_gradient_by_enumeration(weight):
    model, x = bernoulli_model(), data().sigmoid().round()
    labels = torch.tensor([0, -1, 2, -1, 1, 1, -1])
    value = SemiSupervised(alpha=0.3, classifier_weight=weight)(model, (x, labels), seed=9)
    bounds = plain_bounds(model, x, model.noise(B, seed=9)[0])
    log_q = model.classifier(x).log_softmax(-1)
    unlabelled = (log_q.exp() * (bounds.t() - log_q)).sum(1)
    at_label = torch.arange(B), labels.clamp_min(0)
    # Four of the seven have a label: n_total / n_labelled of the batch is 7 / 4.
    factor = 0.3 * 7.0 / 4.0 if weight is None else weight
    expected = torch.where(labels >= 0, bounds.t()[at_label] + factor * log_q[at_label], unlabelled)
    torch.testing.assert_close(value, expected, **ROUNDING)
    found = torch.autograd.grad(value.sum(), list(model.parameters()))
    for gradient, other in zip(found, torch.autograd.grad(expected.sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(gradient, other, **ROUNDING)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_gradient_without_labels_reaches_the_classifier_alone(share):
    model, x = bernoulli_model(), data().sigmoid().round()
    labels = torch.tensor([0, -1, 2, -1, 1, 1, -1])
    known = labels >= 0

    def gradients(objective, labels):
        value = objective(model, (x, labels), seed=9)
        return value, torch.autograd.grad(value.sum(), list(model.parameters()))

    value, found = gradients(SemiSupervised(classifier_weight=2.0, unlabelled_share=share), labels)
    whole, expected = gradients(SemiSupervised(classifier_weight=2.0), labels)
    torch.testing.assert_close(value, whole, **ROUNDING)
    q = model.log_classifier(x)
    of_labels = 2.0 * q[torch.arange(B), labels.clamp_min(0)][known].sum()
    of_labels = torch.autograd.grad(of_labels, list(model.classifier.parameters()))
    of_labels = dict(zip(map(id, model.classifier.parameters()), of_labels, strict=True))
    for parameter, gradient, other in zip(model.parameters(), found, expected, strict=True):
        alone = of_labels.get(id(parameter))
        wanted = other if alone is None else alone + share * (other - alone)
        torch.testing.assert_close(gradient, wanted, **ROUNDING)


def test_the_share_at_each_step():
    def shares(**options):
        return [SemiSupervised(**options).at_step(step).unlabelled_share for step in range(7)]

    assert shares() == [1.0] * 7
    assert shares(hold_steps=2) == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert shares(warm_up_steps=4) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert shares(unlabelled_share=0.5, hold_steps=1, warm_up_steps=4) == [0.0, 0.0, 0.125, 0.25, 0.375, 0.5, 0.5]


def test_a_share_of_the_gradient_of_a_class_that_cannot_be():
    log_q = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    for share in (0.0, 0.5):
        scaled = with_gradient_times(share, log_q)
        assert torch.equal(scaled, log_q)
        value = unlabelled_bound(scaled, torch.tensor([[-3.0], [-math.inf]]))
        assert torch.autograd.grad(value.sum(), log_q)[0].tolist() == [[-4.0 * share, 0.0]]


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2, 0], [-1] * B])
def test_batches_of_one_kind(labels):
    model, x, labels = bernoulli_model(), data().sigmoid().round(), torch.tensor(labels)
    value = SemiSupervised()(model, (x, labels), seed=1)
    assert value.shape == (B,)
    assert value.isfinite().all()
    value.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_shard_of_a_batch_has_the_values_of_the_whole():
    model, x = bernoulli_model(), data().sigmoid().round()
    labels = torch.tensor([0, -1, 2, -1, 1, 1, -1])
    whole = PartlyLabelled(x, labels, torch.linspace(0.5, 2.0, B).double(), (labels >= 0).double() * 3.0)
    value = SemiSupervised(2)(model, whole, seed=4)
    for first, last in ((0, 3), (3, 7)):
        part = PartlyLabelled(*(each[first:last] for each in whole))
        shard = SemiSupervised(2)(model, part, seed=4, row_offset=first)
        torch.testing.assert_close(shard, value[first:last], **ROUNDING)


def test_weights_multiply_the_bound_and_the_classifier_apart():
    model, x = bernoulli_model(), data().sigmoid().round()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, -1])
    ones, none = torch.ones(B).double(), torch.zeros(B).double()
    bound = SemiSupervised()(model, PartlyLabelled(x, labels, ones, none), seed=4)
    classifier = SemiSupervised()(model, PartlyLabelled(x, labels, none, ones), seed=4)
    both = SemiSupervised()(model, PartlyLabelled(x, labels, 2.0 * ones, 5.0 * ones), seed=4)
    torch.testing.assert_close(both, 2.0 * bound + 5.0 * classifier, **ROUNDING)
    log_q = model.log_classifier(x)[torch.arange(B), labels.clamp_min(0)]
    torch.testing.assert_close(classifier, torch.where(labels >= 0, 0.1 * log_q, none), **ROUNDING)


def test_a_class_that_cannot_be_adds_nothing():
    log_q = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    bounds = torch.tensor([[-3.0], [-math.inf]], requires_grad=True)
    value = unlabelled_bound(log_q, bounds)
    assert value.tolist() == [-3.0]
    gradients = torch.autograd.grad(value.sum(), (log_q, bounds))
    # d/d log q_y = q_y (L_y - log q_y - 1), and d/d L_y = q_y.
    assert gradients[0].tolist() == [[-4.0, 0.0]]
    assert gradients[1].tolist() == [[1.0], [0.0]]


def test_a_missing_label_is_completed_by_the_likeliest_class():
    model, x = bernoulli_model(), data().sigmoid().round()
    likeliest = model.classify(x)
    for found, expected in zip(model.encode(x), model.encode((x, likeliest)), strict=True):
        torch.testing.assert_close(found, expected, **ROUNDING)
    labels = torch.tensor([0, -1, 2, -1, 1, 1, -1])
    torch.testing.assert_close(
        model.reconstruct((x, labels)), model.reconstruct((x, torch.where(labels < 0, likeliest, labels))), **ROUNDING
    )
    figures = model.figures((x, labels))["error"]
    assert figures.isnan().tolist() == (labels < 0).tolist()
    assert set(figures[labels >= 0].tolist()) <= {0.0, 100.0}
    assert model.figures(x) == {}


def test_autocast_gives_float32():
    model = SemiSupervisedVAE(D, C, Z, (6,))
    x, labels = torch.ones(B, D), torch.full((B,), -1)
    with torch.autocast("cpu", torch.bfloat16):
        assert SemiSupervised()(model, (x, labels), seed=0).dtype is torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data_dim": 0}, ValueError, "data_dim must be at least 1, got 0"),
        ({"num_classes": 1.5}, TypeError, "num_classes must be an int, got 1.5"),
        ({"hidden_dims": ()}, ValueError, "hidden_dims must be one width or more"),
        ({"activation": "sine"}, ValueError, "activation must be one of tanh, relu, softplus, elu, got 'sine'"),
        ({"likelihood": "normal"}, ValueError, "likelihood must be one of bernoulli"),
        ({"data_mean": torch.zeros(3)}, ValueError, r"data_mean must have the shape \(5,\), got \(3,\)"),
    ],
)
def test_complaints_of_the_model(arguments, error, message):
    with pytest.raises(error, match=message):
        SemiSupervisedVAE(**{"data_dim": D, "num_classes": C, **arguments})


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(B, D + 1), ValueError, r"images must have the shape \(B, 5\), got \(7, 6\)"),
        (torch.ones(B, D, dtype=torch.int64), TypeError, "images must be a tensor of floating-point values"),
        ((torch.ones(B, D), torch.zeros(B)), TypeError, "labels must be an int64 tensor, got torch.float32"),
        ((torch.ones(B, D), torch.zeros(3, dtype=torch.int64)), ValueError, r"labels must have the shape \(7,\)"),
        ((torch.ones(B, D), torch.full((B,), 3)), ValueError, "labels must be from 0 to 2, or -1 for one that is not"),
        ((torch.ones(B, D), torch.full((B,), -2)), ValueError, "labels must be from 0 to 2, or -1 for one that is not"),
        ("images", TypeError, "x must be images, or the pair"),
    ],
)
def test_complaints_of_examples(x, error, message):
    with pytest.raises(error, match=message):
        SemiSupervisedVAE(D, C, Z, (6,)).parts(x)


def test_values_outside_the_unit_interval_are_refused():
    model = SemiSupervisedVAE(D, C, Z, (6,))
    with pytest.raises(ValueError, match=r"a Bernoulli likelihood needs x in \[0, 1\], got"):
        SemiSupervised()(model, (torch.full((2, D), 7.0), torch.tensor([0, -1])))


def test_complaints_of_the_objective():
    with pytest.raises(TypeError, match="needs a model of data and classes, such as m2; VAE lacks log_classifier"):
        SemiSupervised().check_model(VAE(D))
    with pytest.raises(TypeError, match=r"x must be the pair \(images, labels\) of tensors"):
        SemiSupervised()(SemiSupervisedVAE(D, C), torch.ones(2, D))
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        SemiSupervised(0)
    with pytest.raises(ValueError, match=r"unlabelled_share must be at most 1, got 1\.5"):
        SemiSupervised(unlabelled_share=1.5)


def test_options():
    options = make_model_options("m2", latent_dim=3, hidden_dims=(8,), likelihood="gaussian")
    assert options == SemiSupervisedOptions(latent_dim=3, hidden_dims=(8,), likelihood="gaussian")
