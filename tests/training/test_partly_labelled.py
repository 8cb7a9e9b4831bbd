"""Runs with few labels: which images keep one, what a batch holds, M2 and M1+M2 by the command and from Python."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

import fastvi
from fastvi.data import DataError, Dataset, from_arrays, from_path, load_dataset
from fastvi.evaluate import encode, reconstruct, sample, score
from fastvi.models import MODELS, DataShape, StackedVAE
from fastvi.objectives import SemiSupervised, make_objective
from fastvi.training.config import RunError, RunFolder, TrainingConfig
from fastvi.training.labelled_source import PartlyLabelledBatches, PartlyLabelledSource
from support.command import assert_one_clear_line, call
from support.runs import assert_same_end, run

SMALL = ("--hidden-dims", "8", "--latent-dim", "2", "--epochs", "2", "--no-progress", "--threads", "1")
CONFIG = TrainingConfig(
    data="digits",
    image_shape=(8, 8),
    objective=make_objective("semi-supervised"),
    model=MODELS.make("m2", latent_dim=2, hidden_dims=(8,), likelihood="bernoulli", labels=20, labelled_batch=15),
    binarization="dynamic",
    epochs=2,
    batch_size=100,
    learning_rate=1e-2,
    seed=3,
    num_classes=10,
)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def batches(source, steps, rank=0, world_size=1):
    found = []
    while len(found) < steps:
        found += list(source.batches(len(found), rank, world_size))
    return found[:steps]


def test_every_class_keeps_as_many_labels(digits):
    source = PartlyLabelledSource(CONFIG, digits)
    shown = torch.cat([source.present(batch).labels for batch in batches(source, 30)])
    assert sorted(set(shown.tolist())) == list(range(-1, 10))
    seen = torch.cat([batch.indices[:15] for batch in batches(source, 30)]).unique()
    assert digits.train_labels[seen].bincount().tolist() == [2] * 10
    other = PartlyLabelledSource(dataclasses.replace(CONFIG, seed=4), digits)
    assert not torch.equal(seen, torch.cat([batch.indices[:15] for batch in batches(other, 30)]).unique())


def test_classes_take_turns_and_an_epoch_meets_every_unlabelled_image_once(digits):
    source = PartlyLabelledSource(CONFIG, digits)
    found = batches(source, len(source.batches(0, 0, 1)))
    assert [batch.step for batch in found] == list(range(len(found)))
    others = torch.cat([batch.indices[15:] for batch in found])
    assert len(others) == len(others.unique()) == len(digits.train) - 20
    of_classes = torch.stack([digits.train_labels[batch.indices[:15]].bincount(minlength=10) for batch in found])
    assert of_classes.min() == 1
    assert of_classes.max() == 2
    # Two steps of 15 are three of each of ten classes.
    assert (of_classes[0::2][: len(found) // 2] + of_classes[1::2] == 3).all()
    for label in range(10):  # an endless order: each of its two images once before one comes again
        met = [int(i) for batch in found for i in batch.indices[:15] if digits.train_labels[i] == label]
        pairs = zip(met[0::2], met[1::2], strict=False)
        assert all(first != second for first, second in pairs)


def test_weights_make_a_batch_an_estimate_of_the_mean_over_the_data(digits):
    source = PartlyLabelledSource(CONFIG, digits)
    fraction = 20 / len(digits.train)
    for batch in batches(source, 20):
        shown = source.present(batch)
        count, known = len(shown.labels), shown.labels >= 0
        assert known.tolist() == [True] * 15 + [False] * (count - 15)
        # Each row stands for so many of the data: labelled ones for the fraction of them, in each batch.
        torch.testing.assert_close(shown.weights[known].sum() / count, torch.tensor(fraction))
        torch.testing.assert_close(shown.weights[~known].sum() / count, torch.tensor(1.0 - fraction))
        # alpha n_total / n_labelled for each labelled one is alpha in all.
        torch.testing.assert_close(shown.classifier_weights.sum() / count, torch.tensor(1.0))
        assert not shown.classifier_weights[~known].any()


@pytest.mark.parametrize("share_with_label", [1.0, 0.5])
def test_weights_undo_the_balance_of_the_classes(share_with_label):
    """Of labelled rows nine in ten are of class 0, and batches have as many of each: over all steps each is one."""
    torch.manual_seed(0)
    labels = (torch.arange(200) % 10 == 0).long()
    labels[int(200 * share_with_label) :] = -1
    x = torch.rand(200, 4)
    data = Dataset("mine", x, x, (2, 2), "bernoulli", labels, labels)
    model = MODELS.make("m2", hidden_dims=(3,), latent_dim=2, likelihood="bernoulli", labelled_batch=5)
    config = dataclasses.replace(CONFIG, data="mine", image_shape=(2, 2), model=model, num_classes=2, batch_size=20)
    source = PartlyLabelledSource(config, data)
    # After 72 steps class 0 has been met 180 times, as class 1: whole rounds of both.
    steps = batches(source, 72)
    shown = [source.present(batch) for batch in steps]
    weights = torch.zeros(3).double()
    for batch in shown:
        weights.index_add_(0, batch.labels % 3, batch.weights.double() / len(batch.labels) / len(steps))
    expected = (labels % 3).bincount(minlength=3).double() / 200
    torch.testing.assert_close(weights[:2], expected[:2], rtol=1e-5, atol=0.0)
    of_classifier = torch.zeros(2).double()
    for batch in shown:
        of_classifier.index_add_(
            0, batch.labels.clamp_min(0), batch.classifier_weights.double() / len(batch.labels) / len(steps)
        )
    torch.testing.assert_close(of_classifier, torch.tensor([0.9, 0.1]).double(), rtol=1e-5, atol=0.0)


def test_processes_share_the_batches(digits):
    source = PartlyLabelledSource(CONFIG, digits)
    whole = batches(source, 20)
    shares = [batches(source, 20, rank, 3) for rank in range(3)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        together = [source.present(part) for part in parts]
        for name in ("images", "labels", "weights", "classifier_weights"):
            assert torch.equal(
                torch.cat([getattr(part, name) for part in together]), getattr(source.present(batch), name)
            )


def test_batches_go_on_from_any_step():
    labels = torch.tensor([0, 1, 1, 2, 0, 2, 2])
    made = (torch.arange(7) * 3, labels, torch.arange(100, 123), 4, 5, 11)
    whole = list(PartlyLabelledBatches(*made)) + list(PartlyLabelledBatches(*made, first_step=5))
    for step in range(10):
        batches_from = PartlyLabelledBatches(*made)
        batches_from.load_state_dict({"step": step})
        first = next(iter(batches_from))
        assert first.step == step
        assert torch.equal(first.indices, whole[step].indices)
        assert batches_from.state_dict() == {"step": step + 1}


def test_all_images_have_labels(digits):
    config = dataclasses.replace(CONFIG, model=MODELS.make("m2", hidden_dims=(8,), likelihood="bernoulli"))
    source = PartlyLabelledSource(config, digits)
    found = batches(source, len(source.batches(0, 0, 1)))
    assert len(found) == len(digits.train) // 100
    shown = source.present(found[0])
    assert torch.equal(shown.weights, shown.classifier_weights)
    frequencies = digits.train_labels.bincount() / len(digits.train)  # of a class that has a tenth of the batch
    torch.testing.assert_close(shown.weights, 10.0 * frequencies[shown.labels])


def test_validation_sees_no_label_and_takes_none_away(digits):
    config = dataclasses.replace(CONFIG, validation_split=200.0)
    source = PartlyLabelledSource(config, digits)
    held_out = [source.present(batch, validating=True) for batch in source.validation_batches(0, 1)]
    assert sum(len(shown.labels) for shown in held_out) == 200
    assert all((shown.labels == -1).all() and (shown.weights == 1.0).all() for shown in held_out)
    trained = torch.cat([batch.indices for batch in batches(source, len(source.batches(0, 0, 1)))]).unique()
    assert len(trained) == len(digits.train) - 200


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, digits):
    whole = run(tmp_path / "whole", digits, CONFIG)
    one_epoch = dataclasses.replace(CONFIG, epochs=1)
    run(tmp_path / "parts", digits, one_epoch)
    assert_same_end(run(tmp_path / "parts", digits, CONFIG), whole)


def test_command(tmp_path):
    out = tmp_path / "run"
    result = call("train", "--model", "m2", "--labels", "100", *SMALL, "--out", out, "--evaluation-samples", "30")
    assert result.exit_code == 0, result.output
    assert "test error" in result.stdout
    found = json.loads((out / "evaluation.json").read_text())
    assert 0.0 <= found["figures"]["error"] <= 100.0
    assert {"reconstructions.png", "samples.png"} <= {path.name for path in out.iterdir()}
    again = fastvi.load(out)
    assert again.config.objective == SemiSupervised()
    assert again.evaluate(num_samples=30).figures == found["figures"]


def test_error_is_that_of_the_classifier_on_the_test_labels(digits):
    fitted = fastvi.fit("m2", digits, labels=50, epochs=1, hidden_dims=(8,), latent_dim=2)
    images, labels = fitted._examples(None)
    wrong = (fitted.model.classify(images) != labels).double().mean()
    assert fitted.evaluate(num_samples=5).figures["error"] == pytest.approx(100.0 * float(wrong), abs=1e-9)


def test_learns_from_few_labels(digits):
    """Twenty labels and a thousand images without: far better than the nine in ten of guessing."""
    fitted = fastvi.fit("m2", digits, labels=100, epochs=25, hidden_dims=(64,), latent_dim=5, learning_rate=5e-3)
    assert fitted.evaluate(num_samples=5).figures["error"] < 35.0


def test_stacked_run(tmp_path, digits):
    m1, out = tmp_path / "m1", tmp_path / "m1-m2"
    assert call("train", "--objective", "elbo", *SMALL, "--no-evaluate", "--out", m1).exit_code == 0
    with_m1 = ("train", "--model", "m1-m2", "--m1", m1, "--labels", "100", *SMALL)
    result = call(*with_m1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "error" in json.loads((out / "evaluation.json").read_text())["figures"]
    fitted = fastvi.load(out)
    assert isinstance(fitted.model, StackedVAE)
    for name, value in fastvi.load(m1).model.state_dict().items():
        assert torch.equal(fitted.model.m1.state_dict()[name], value)
    m1.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"m1 is not a run folder"):
        fastvi.load(out)
    result = call(*with_m1, "--out", tmp_path / "new")
    for words in ("--m1", "is not a run folder"):
        assert_one_clear_line(result, words)
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()  # both are moved together
    (tmp_path / "elsewhere").rename(tmp_path / "new" / "m1")
    out.rename(tmp_path / "new" / "m1-m2")
    moved = tmp_path / "new" / "m1-m2"
    assert torch.equal(fastvi.load(moved).model.classify(digits.test), fitted.model.classify(digits.test))
    resumed = call("train", "--resume", moved, "--epochs", "3", "--no-progress", "--no-evaluate")
    assert resumed.exit_code == 0, resumed.output
    assert RunFolder(moved).read_config().model.m1 == str(tmp_path / "new" / "m1")


def test_a_stacked_run_has_the_path_and_the_binarization_of_its_m1(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    assert call("train", "--objective", "elbo", *SMALL, "--no-evaluate", "--out", "m1").exit_code == 0
    result = call("train", "--model", "m1-m2", "--m1", "m1", *SMALL, "--no-evaluate", "--out", "m1-m2")
    assert result.exit_code == 0, result.output
    assert RunFolder(tmp_path / "m1").read_config().binarization == "dynamic"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    fitted = fastvi.load(tmp_path / "m1-m2")
    assert fitted.config.binarization == "dynamic"
    assert fitted.config.model.m1 == str(tmp_path / "m1")
    again = fastvi.fit("m1-m2", digits, epochs=1, m1="../m1", hidden_dims=(3,), latent_dim=2)
    assert again.config.binarization == "dynamic"
    assert again.config.model.m1 == str(tmp_path / "below" / ".." / "m1")


TO_START_FROM = ("--model", "vae", "--objective", "elbo", "--start-from")
STACKED = ("--model", "m1-m2", "--labels", "100", "--m1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*STACKED, "m1"), ("--m1", "is the folder that the new run would be written to: choose another --out")),
        ((*TO_START_FROM, "m1"), ("--start-from", "is the folder that the new run would be written to")),
        ((*TO_START_FROM, "m11"), ("--start-from", "m11 is not a run folder")),
        ((*TO_START_FROM, "bare"), ("--start-from", "has no checkpoint yet")),
        ((*STACKED, "bare"), ("bare has no checkpoint yet",)),
        ((*STACKED, "other"), ("--m1", "its images are (1, 12), these are (8, 8)")),
        ((*STACKED, "m1-wide", "--least-spread", "1e9"), ("--m1", "no latent dimension of m1 varies")),
    ],
)
def test_nothing_is_deleted_where_another_run_cannot_be_taken(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("--epochs", "1", *SMALL[:4], "--no-progress", "--threads", "1", "--no-evaluate")
    for name in ("m1", "m1-wide"):
        assert call("train", "--objective", "elbo", *small, "--out", name).exit_code == 0
    fastvi.fit("vae", own_data()[0], "elbo", epochs=1, hidden_dims=(3,), latent_dim=2, out="other")
    shutil.copytree("m1", "bare")
    (tmp_path / "bare" / "checkpoints" / "last.ckpt").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "m1").rglob("*") if path.is_file()}
    result = call("train", *options, *small, "--out", "m1", "--overwrite")
    for each in words:
        assert_one_clear_line(result, each)
    assert {path: path.read_bytes() for path in (tmp_path / "m1").rglob("*") if path.is_file()} == before
    place = {"m1" if "--m1" in options else "start_from": options[-1] if "--least-spread" not in options else "m1-wide"}
    model = options[1]
    fields = {"labels": 100, "least_spread": 1e9 if "--least-spread" in options else 0.1} if model == "m1-m2" else {}
    with pytest.raises(RunError):
        fastvi.fit(
            model, "digits", epochs=1, hidden_dims=(8,), latent_dim=2, out="m1", overwrite=True, **place, **fields
        )
    assert {path: path.read_bytes() for path in (tmp_path / "m1").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "m2", "--labels", "50"), "must be one that was trained without labels, got m2"),
        (("--model", "conditional-vae"), "must be one that was trained without labels, got conditional-vae"),
        (("--model", "general-vae", "--posterior", "full"), "m1 must have a diagonal Gaussian posterior"),
        (("--model", "general-vae", "--posterior", "flow"), "m1 must have a diagonal Gaussian posterior"),
        (("--model", "sigmoid-belief-network", "--objective", "vimco"), "m1 must be a model with one vector z"),
    ],
)
def test_a_run_that_cannot_be_m1_is_refused_before_training(options, words, tmp_path):
    small = ("--epochs", "1", "--no-progress", "--threads", "1", "--no-evaluate")
    widths = ("--layer-dims", "3") if "vimco" in options else SMALL[:4]
    made = call("train", *options, *widths, *small, "--out", tmp_path / "m1")
    assert made.exit_code == 0, made.output
    result = call("train", *STACKED, tmp_path / "m1", *SMALL[:4], *small, "--out", tmp_path / "m1-m2")
    assert_one_clear_line(result, "--m1")
    assert_one_clear_line(result, words)
    assert not (tmp_path / "m1-m2").exists()


def test_a_stacked_run_starts_from_one_with_the_same_m1_alone(tmp_path, digits):
    for seed in (1, 2):
        fastvi.fit(
            "vae", digits, "elbo", epochs=1, hidden_dims=(3,), latent_dim=2, seed=seed, out=tmp_path / f"m{seed}"
        )
    sizes = {"epochs": 1, "hidden_dims": (3,), "latent_dim": 2, "labels": 50, "least_spread": 0.0}
    first = fastvi.fit("m1-m2", digits, m1=str(tmp_path / "m1"), out=tmp_path / "first", **sizes)
    again = {**sizes, "start_from": str(tmp_path / "first"), "learning_rate": 1e-30}
    second = fastvi.fit("m1-m2", digits, m1=str(tmp_path / "m1"), **again)
    assert torch.equal(second.model.classify(digits.test), first.model.classify(digits.test))
    with pytest.raises(RunError, match="it was trained on another M1 than this one"):
        fastvi.fit("m1-m2", digits, m1=str(tmp_path / "m2"), **again)


def test_a_stacked_model_has_a_copy_of_m1_and_refuses_what_has_no_gaussian():
    m1 = fastvi.models.VAE(6, 2, (3,))
    model = StackedVAE(m1, num_classes=2, latent_dim=2, hidden_dims=(3,))
    assert model.m1 is not m1
    assert all(parameter.requires_grad for parameter in m1.parameters())
    assert not any(parameter.requires_grad for parameter in model.m1.parameters())
    with torch.no_grad():
        next(m1.parameters()).add_(1.0)
    assert not torch.equal(next(m1.parameters()), next(model.m1.parameters()))
    shape = DataShape((1, 6), 2)
    for name, options in (("m2", {"likelihood": "bernoulli"}), ("conditional-vae", {"likelihood": "bernoulli"})):
        with pytest.raises(TypeError, match="m1 must be a model that was trained without labels"):
            StackedVAE(MODELS.make(name, **options).build(shape), num_classes=2)
    full = MODELS.make("general-vae", likelihood="bernoulli", posterior="full").build(DataShape((1, 6)))
    with pytest.raises(TypeError, match="m1 must have a diagonal Gaussian posterior"):
        StackedVAE(full, num_classes=2)
    with pytest.raises(TypeError, match="m1 must be a model with one vector z, such as a VAE: a Linear lacks encode"):
        StackedVAE(torch.nn.Linear(2, 2), num_classes=2)
    with pytest.raises(ValueError, match="images must be two or more for a spread over them, got 1"):
        model.choose_features(torch.ones(1, 6))


WRONG_LABELS = [
    (torch.zeros(2, dtype=torch.int64), ValueError, r"labels must have the shape \(5,\), got \(2,\)"),
    (torch.zeros(5, 1, dtype=torch.int64), ValueError, r"labels must have the shape \(5,\), got \(5, 1\)"),
    (torch.tensor([0, 1, -2, 0, 0]), ValueError, "-1 for one that is not known, got -2 to 1"),
    (torch.tensor([0, 1, 3, 0, 0]), ValueError, "labels must be from 0 to 2.*, got 0 to 3"),
    (torch.zeros(5), TypeError, "labels must be an int64 tensor, got torch.float32"),
]


@pytest.mark.parametrize(("labels", "error", "words"), WRONG_LABELS)
@pytest.mark.parametrize("kind", ["m2", "m1-m2"])
def test_labels_are_checked_wherever_they_are_given(labels, error, words, kind):
    x = torch.rand(5, 6).round()
    if kind == "m2":
        model = fastvi.models.SemiSupervisedVAE(6, 3, 2, (3,))
    else:
        model = StackedVAE(fastvi.models.VAE(6, 2, (3,)), num_classes=3, latent_dim=2, hidden_dims=(3,))
    for use in (lambda pair: SemiSupervised()(model, pair), lambda pair: model.draw(pair, 2), model.figures):
        with pytest.raises(error, match=words):
            use((x, labels))
    with pytest.raises(ValueError, match=r"labels must have the shape \(1,\), got \(2,\)"):
        SemiSupervised()(model, (x[:1], torch.zeros(2, dtype=torch.int64)))


def test_a_stacked_model_samples_encodes_reconstructs_and_scores():
    torch.manual_seed(0)
    model = StackedVAE(fastvi.models.VAE(12, 3, (4,)), num_classes=2, latent_dim=2, hidden_dims=(3,))
    model.m2.is_feature.copy_(torch.tensor([1.0, 0.0, 1.0]))
    x, labels = torch.rand(5, 12).round(), torch.tensor([0, 1, -1, 1, 0])
    drawn = sample(model, 7, seed=2)
    assert set(drawn.x.unique().tolist()) <= {0.0, 1.0}
    assert drawn.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    # The mean of z1 has 0 where M2 sees nothing, which is the mean of the prior there.
    z1 = model.m2.decode(torch.ones(1, 2), torch.tensor([1]))
    assert z1[0, 1] == 0.0
    assert torch.equal(model.decode(torch.ones(1, 2), torch.tensor([1])), model.m1.decode(z1))
    codes = encode(model, (x, labels), num_samples=20_000, seed=1)
    mean, logvar = model.encode((x, labels))  # of q(z2|z1, y)
    assert torch.equal(codes.mean, mean)
    assert torch.equal(codes.logvar, logvar)
    assert codes.samples[0].shape == (20_000, 5, 2)
    assert bool(((codes.samples[0].mean(0) - mean).abs() < 5.0 * torch.exp(0.5 * logvar) / 20_000**0.5).all())
    torch.testing.assert_close(reconstruct(model, (x, labels)), model.reconstruct((x, labels)))
    scores = score(model, (x, labels), num_samples=30)
    assert bool((scores.elbo <= scores.log_prob).all())


def test_features_are_the_dimensions_that_vary_drawn_anew_for_each_seed():
    model = StackedVAE(fastvi.models.VAE(4, 3, (2,)), num_classes=2, latent_dim=2, hidden_dims=(3,))
    m1 = model.m1
    x = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    with torch.no_grad():
        m1.posterior_head.weight[1] = 0.0  # the second mean is its bias
        m1.posterior_head.weight[3:] = 0.0
        m1.posterior_head.bias[3:] = -1.0
    model.choose_features(x, least_spread=1e-4)
    assert model.is_feature.tolist() == [1.0, 0.0, 1.0]
    mean = m1.encode(x)[0] * model.is_feature
    assert torch.equal(model.mean_features(x), mean)
    many = torch.stack([model.features(x, seed=seed) for seed in range(4000)])
    assert torch.equal(many[7], model.features(x, seed=7))
    torch.testing.assert_close(many.mean(0), mean, rtol=0.0, atol=5.0 * 0.61 / 4000**0.5)
    deviation = torch.exp(torch.tensor(-0.5)) * model.is_feature.expand(2, 3)
    torch.testing.assert_close(many.std(0), deviation, rtol=0.06, atol=0.0)
    value = SemiSupervised()(model, (x, torch.tensor([0, -1])), seed=1)
    value.sum().backward()
    assert all(parameter.grad is None for parameter in m1.parameters())
    assert all(parameter.grad is not None for parameter in model.m2.parameters())
    with pytest.raises(ValueError, match="no latent dimension of m1 varies by more than 1000"):
        model.choose_features(x, least_spread=1000.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "m2", "--labels", "5000"), "--labels: class 8 has 145 labelled examples, 5,000 labels over 10"),
        (("--model", "m2", "--labels", "1600"), "need 160 of it; 1,454 are possible"),
        (("--model", "m2", "--labels", "5"), "--labels: got 5, expected at least 10, one label for each class"),
        (("--model", "m2", "--objective", "iwae"), "iwae would not train the classifier of m2"),
        (("--objective", "semi-supervised"), "needs a model of data and classes, such as m2"),
        (("--model", "vae", "--labels", "100"), "--labels belongs to the models m2 and m1-m2, not to vae"),
        (("--model", "m1-m2", "--labels", "100"), "--m1 must be given for the model"),
    ],
)
def test_complaints_of_the_command(options, message, tmp_path):
    assert_one_clear_line(call("train", *options, "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def own_data(count=60):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = (rng.random((count, 12)) < (0.15 + 0.7 * np.eye(3)[y].repeat(4, 1))).astype(np.float32)
    return x, y


@pytest.mark.parametrize("missing", [-1, np.nan, ""])
def test_own_labels_may_be_missing(missing, tmp_path):
    x, y = own_data()
    kind = str if missing == "" else float if missing != -1 else int
    labels = np.where(np.arange(60) % 4 < 2, missing, y.astype(kind))
    np.savez(tmp_path / "mine.npz", x=x, labels=labels)
    data = from_path(tmp_path / "mine.npz", labels_from="labels", test_split=10)
    assert (data.train_labels == -1).sum() + (data.test_labels == -1).sum() == 30
    assert data.num_classes == 3
    fitted = fastvi.fit("m2", data, epochs=1, hidden_dims=(4,), latent_dim=2)
    known = int((data.test_labels >= 0).sum())
    error = fitted.evaluate(num_samples=3).figures["error"]
    assert error * known / 100.0 == pytest.approx(round(error * known / 100.0))
    with pytest.raises(
        ValueError, match=r"conditional-vae needs a label for each example, and \d+ of the data .* have none"
    ):
        fastvi.fit("conditional-vae", data, epochs=1, hidden_dims=(4,), latent_dim=2)


def test_minus_one_beside_one_other_number_is_a_class():
    x, y = own_data()
    data = from_arrays(x, labels=np.where(y == 0, -1, 1))
    assert data.class_names == ("-1", "1")
    assert int(data.train_labels.min()) == 0


def test_a_test_row_without_its_label_is_refused_where_all_are_needed():
    x, y = own_data()
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    data = Dataset(
        "mine", rows, rows, (1, 12), "bernoulli", labels, labels.clone().index_fill(0, torch.tensor([3]), -1)
    )
    with pytest.raises(ValueError, match=r"needs a label for each example, and 1 of the data mine have none \(-1\)"):
        fastvi.fit("conditional-vae", data, epochs=1, hidden_dims=(4,), latent_dim=2)


def test_data_without_any_label_are_refused():
    x, _ = own_data()
    rows = torch.from_numpy(x)
    none = torch.full((60,), -1)
    data = Dataset("mine", rows, rows, (1, 12), "bernoulli", none, torch.arange(60) % 3)
    with pytest.raises(ValueError, match="no training example has a label"):
        fastvi.fit("m2", data, epochs=1)
    with pytest.raises(DataError, match="must be 0 or more, or -1 for none, got -2"):
        Dataset("mine", rows, rows, (1, 12), "bernoulli", none - 1, none)


def test_a_run_starts_from_the_parameters_of_another(tmp_path, digits):
    vae = dataclasses.replace(
        CONFIG,
        objective=make_objective("elbo"),
        model=MODELS.make("vae", latent_dim=2, hidden_dims=(8,)),
        num_classes=None,
        epochs=1,
    )
    first = run(tmp_path / "first", digits, vae)
    still = dataclasses.replace(vae, start_from=str(first.path), learning_rate=1e-30)
    second = run(tmp_path / "second", digits, still)
    for name, value in first.load_model().state_dict().items():
        assert torch.equal(second.load_model().state_dict()[name], value)
    third = run(tmp_path / "third", digits, dataclasses.replace(vae, start_from=str(first.path)))
    (tmp_path / "first").rename(tmp_path / "gone")
    longer = dataclasses.replace(vae, start_from=str(first.path), epochs=2)
    run(tmp_path / "third", digits, longer)  # goes on from its own checkpoint
    assert third.trained_epochs() == 2
    with pytest.raises(RunError, match="is not a run folder"):
        run(tmp_path / "fourth", digits, still)
    wider = dataclasses.replace(vae, model=MODELS.make("vae", latent_dim=3, hidden_dims=(8,)))
    with pytest.raises(RunError, match=r"its model has other parameters than this one: posterior_head\.weight"):
        run(tmp_path / "fifth", digits, dataclasses.replace(wider, start_from=str(tmp_path / "gone")))
    assert RunFolder(tmp_path / "third").read_config().start_from == str(first.path)


@torch.no_grad()
def test_weights_of_a_stacked_draw_are_unbiased():
    """E w = p(x) for M1+M2 of one image of two pixels: by quadrature over z1 and z2, to five standard errors."""
    torch.manual_seed(1)
    model = StackedVAE(fastvi.models.VAE(2, 2, (3,)), num_classes=2, latent_dim=1, hidden_dims=(4,)).double()
    m1 = model.m1
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    m1.posterior_head.bias[2:] = model.m2.encoder[-1].bias[1:] = 0.7  # wide posteriors, so that weights are bounded
    model.is_feature.copy_(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[1.0, 0.0]]).double()
    grid = torch.linspace(-20.0, 20.0, 401).double()
    cell = float(grid[1] - grid[0])

    def normal(value):
        return torch.exp(-0.5 * value.square()) / (2.0 * torch.pi) ** 0.5

    z1 = torch.cartesian_prod(grid, grid)
    of_feature = torch.zeros(len(grid)).double()
    for label in range(2):
        codes = torch.cat([grid.unsqueeze(1), torch.eye(2).double()[label].expand(len(grid), 2)], 1)
        mean, logvar = (part[:, :1] for part in model.m2.decoder(codes).chunk(2, -1))
        density = torch.exp(-0.5 * ((grid - mean).square() * torch.exp(-logvar) + logvar)) / (2.0 * torch.pi) ** 0.5
        of_feature += 0.5 * cell * (normal(grid).unsqueeze(1) * density).sum(0)
    prior = of_feature.repeat_interleave(len(grid)) * normal(z1[:, 1])
    evidence = float((prior * m1.log_likelihood(x, z1.unsqueeze(1)).squeeze(1).exp()).sum() * cell**2)
    assert float(prior.sum() * cell**2) == pytest.approx(1.0, abs=1e-4)  # the grid is wide and fine enough
    weights = model.draw(x, 60_000, seed=3).log_weights.exp()
    assert abs(float(weights.mean()) - evidence) < 5.0 * float(weights.std()) / 60_000**0.5
    of_classes = sum(model.draw((x, torch.tensor([label])), 5, seed=3).log_weights.exp() for label in range(2))
    torch.testing.assert_close(of_classes, model.draw(x, 5, seed=3).log_weights.exp())
