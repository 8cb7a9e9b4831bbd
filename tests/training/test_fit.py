"""`fastvi.fit`: one result with the command line, for all kinds of data, resumed to the bit; and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import fastvi
from fastvi.data import DataError, from_arrays, load_dataset
from fastvi.objectives import ELBO, IWAE
from fastvi.training._lightning import Callback, Logger
from fastvi.training.config import RunError, RunFolder
from support.command import call

SMALL = {"latent_dim": 2, "hidden_dims": (8,)}
X = torch.rand(120, 16, generator=torch.Generator().manual_seed(0)).round()
LABELS = torch.arange(120) % 3


class Mine(nn.Module):
    """A model of a user's own, with dropout and counters that are no float32."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(16, 4)
        self.norm = nn.BatchNorm1d(16)
        self.decoder = nn.Linear(2, 16)

    def encode(self, x):
        assert x.shape[1:] == (4, 4)
        hidden = nn.functional.dropout(self.norm(x.flatten(1)), 0.2, self.training)
        return self.encoder(hidden).chunk(2, -1)

    def log_likelihood(self, x, z):
        return -(self.decoder(z) - x.flatten(1)).square().sum(-1)


def mine() -> Mine:
    torch.manual_seed(3)
    return Mine()


class StopHereError(Exception):
    """Raised by a test in the middle of a run."""


class StopAt(Callback):
    """Ends a run in the middle."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch.step == self._step:
            raise StopHereError


def assert_same(first: nn.Module, second: nn.Module) -> None:
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), rtol=0, atol=0)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def test_the_command_and_python_give_the_same_parameters(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--epochs 3 --hidden-dims 8 --latent-dim 2 --num-samples 2 --batch-size 200 --seed 4 --no-evaluate"
    options += " --schedule cosine --schedule-warm-up 2 --gradient-clip 5 --weight-decay 0.01 --weight-averaging 0.9"
    options += " --validation-split 0.2 --patience 2 --out command"
    result = call("train", *options.split())
    assert result.exit_code == 0, result.output
    settings = {"epochs": 3, "num_samples": 2, "batch_size": 200, "seed": 4, "schedule": "cosine", **SMALL}
    settings |= {"schedule_warm_up": 2, "gradient_clip": 5.0, "weight_decay": 0.01, "weight_averaging": 0.9}
    settings |= {"validation_split": 0.2, "patience": 2}
    found = fastvi.fit("vae", "digits", "iwae", out="python", **settings)
    plain = fastvi.fit(
        "vae", load_dataset("digits"), IWAE(2), **{k: v for k, v in settings.items() if k != "num_samples"}
    )
    loaded = fastvi.load("command")
    assert found.config == loaded.config == plain.config
    for other in (found, plain):
        assert_same(other.model, loaded.model)
        assert without_seconds(other.history) == without_seconds(loaded.history)
    assert RunFolder(tmp_path / "python").read_record() == RunFolder(tmp_path / "command").read_record()


def test_every_kind_of_rows_gives_the_same_parameters() -> None:
    whole = from_arrays(X)
    expected = fastvi.fit("vae", whole, epochs=1, **SMALL)
    x = X.numpy()
    kinds = [X, x, x.astype(bool), x.tolist(), (X, LABELS), SimpleNamespace(X=x, obs=None), TensorDataset(X, LABELS)]
    for kind in kinds:
        assert_same(fastvi.fit("vae", kind, epochs=1, **SMALL).model, expected.model)
    for kind in (sparse.csr_matrix(x), SimpleNamespace(X=sparse.csr_matrix(x), obs=None)):
        found = fastvi.fit("vae", kind, epochs=1, **SMALL)
        # The mean of the rows, which the decoder starts from, is a sum in another order.
        torch.testing.assert_close(dict(found.model.state_dict()), dict(expected.model.state_dict()))
    assert expected.evaluate(num_samples=5).images == 12
    assert expected.evaluate(x[:7], num_samples=5).images == 7


class Pairs(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 120

    def __getitem__(self, index):
        return X[index].reshape(4, 4), int(LABELS[index])


def test_bytes_are_divided_by_255_unless_they_are_0_and_1() -> None:
    """In an array, a dataset and a loader alike."""
    for scale in (1, 255):
        images = (scale * X).to(torch.uint8)
        dataset = [(image, 0) for image in images]
        kinds = [images, torch.utils.data.Subset(dataset, range(120)), DataLoader(images, batch_size=20)]
        found = [fastvi.fit("vae", kind, epochs=1, **SMALL) for kind in kinds]
        assert {each.config.model.likelihood for each in found} == {"bernoulli"}
        for one, other in zip(found, (X, X, DataLoader(X, batch_size=20)), strict=True):
            expected = fastvi.fit("vae", other, epochs=1, **SMALL)
            torch.testing.assert_close(dict(one.model.state_dict()), dict(expected.model.state_dict()))


def test_grey_values_of_a_loader_are_binarised_anew_each_time(tmp_path) -> None:
    def loader():
        return DataLoader(TensorDataset(0.5 * X), batch_size=20, shuffle=True)

    whole = fastvi.fit("vae", loader(), epochs=3, out=tmp_path / "whole", **SMALL)
    assert whole.config.binarization == "dynamic"
    with pytest.raises(StopHereError):
        fastvi.fit("vae", loader(), epochs=3, out=tmp_path / "part", callbacks=[StopAt(9)], **SMALL)
    assert_same(fastvi.fit("vae", loader(), epochs=3, out=tmp_path / "part", resume=True, **SMALL).model, whole.model)
    grey = fastvi.fit("vae", loader(), epochs=1, binarization="none", likelihood="gaussian", **SMALL)
    assert grey.config.model.likelihood == "gaussian"


def test_datasets_of_torch_keep_their_shape_and_labels() -> None:
    found = fastvi.fit("conditional-vae", Pairs(), epochs=1, **SMALL)
    assert found.config.image_shape == (4, 4)
    assert found.config.num_classes == 3
    expected = fastvi.fit("conditional-vae", (X.reshape(120, 4, 4), LABELS), epochs=1, **SMALL)
    torch.testing.assert_close(dict(found.model.state_dict()), dict(expected.model.state_dict()))
    assert found.evaluate((X[:9].reshape(9, 4, 4), LABELS[:9]), num_samples=5).images == 9
    own = fastvi.fit(mine(), Pairs(), "elbo", epochs=1)
    assert_same(own.model, fastvi.fit(mine(), X.reshape(120, 4, 4), ELBO(), epochs=1).model)


@pytest.mark.parametrize("kind", ["rows", "loader"])
def test_a_module_of_ones_own_resumes_to_the_bit_and_is_loaded(tmp_path, kind) -> None:
    def data():
        images = X.reshape(120, 4, 4)
        return images if kind == "rows" else DataLoader(TensorDataset(images), batch_size=20, shuffle=True)

    settings = {"objective": "elbo", "epochs": 3, "batch_size": 20, "weight_averaging": 0.9}
    whole = fastvi.fit(mine(), data(), out=tmp_path / "whole", **settings)
    assert whole.model.training is False
    with pytest.raises(StopHereError):
        fastvi.fit(mine(), data(), out=tmp_path / "part", checkpoint_every=2, callbacks=[StopAt(9)], **settings)
    torch.manual_seed(99)  # the state of PyTorch's own generator must not matter
    part = fastvi.fit(Mine(), data(), out=tmp_path / "part", resume=True, **settings)
    assert_same(part.model, whole.model)
    assert without_seconds(part.history) == without_seconds(whole.history)
    for given in (Mine, Mine()):
        assert_same(fastvi.load(tmp_path / "part", given).model, whole.model)
    with pytest.raises(RunError, match=r"of the class Mine of your own: give it by load\(path, model=...\)"):
        fastvi.load(tmp_path / "part")
    with pytest.raises(RunError, match="of the class Mine, got a Linear"):
        fastvi.load(tmp_path / "part", nn.Linear(1, 1))
    result = call("evaluate", tmp_path / "part")
    assert result.exit_code != 0
    assert "of the class Mine of your own" in result.output


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Placed:
    """A loader that knows its place."""

    def __init__(self) -> None:
        self._next = 0

    def __iter__(self):
        while self._next < 6:
            self._next += 1
            yield X[20 * self._next - 20 : 20 * self._next]
        self._next = 0

    def state_dict(self):
        return {"next": self._next}

    def load_state_dict(self, state):
        self._next = state["next"]


def test_streams_train_and_go_on_where_they_have_a_state(tmp_path) -> None:
    settings = {"epochs": 3, **SMALL}
    whole = fastvi.fit("vae", Placed(), out=tmp_path / "whole", **settings)
    assert [row["step"] for row in whole.history] == [6, 12, 18]
    assert_same(whole.model, fastvi.fit("vae", DataLoader(Stream(), batch_size=20), **settings).model)
    for step in (3, 9, 12):
        out = tmp_path / str(step)
        with pytest.raises(StopHereError):
            fastvi.fit("vae", Placed(), out=out, checkpoint_every=2, callbacks=[StopAt(step)], **settings)
        assert_same(fastvi.fit("vae", Placed(), out=out, resume=True, **settings).model, whole.model)
    out = tmp_path / "stream"
    with pytest.raises(StopHereError):
        fastvi.fit("vae", DataLoader(Stream(), batch_size=20), out=out, callbacks=[StopAt(9)], **settings)
    with pytest.raises(RunError, match="cannot go on: its data can neither be indexed nor have they a state_dict"):
        fastvi.fit("vae", DataLoader(Stream(), batch_size=20), out=out, resume=True, **settings)


def test_a_stream_is_read_as_it_comes(monkeypatch) -> None:
    """No more than a few batches are alive at any time."""
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    class Counted:
        def __iter__(self):
            nonlocal most
            for _ in range(50):
                batch = X[:20].clone()
                alive.append(weakref.ref(batch))
                most = max(most, sum(each() is not None for each in alive))
                yield batch

    fastvi.fit("vae", Counted(), epochs=2, **SMALL)
    assert len(alive) >= 100
    assert most <= 6


class Recorder(Logger):
    name, version = "recorder", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *_arguments, **_options) -> None:
        pass


def test_callbacks_and_loggers_of_ones_own_see_the_figures() -> None:
    seen = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            seen.append(pl_module.validation_value)

        def on_train_end(self, trainer, pl_module) -> None:
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    logger = Recorder()
    found = fastvi.fit("vae", X, epochs=2, validation_split=0.2, callbacks=[Watch()], loggers=[logger], **SMALL)
    assert [step for step, _ in logger.rows] == [row["step"] for row in found.history]
    assert [row for _, row in logger.rows] == [
        {name: value for name, value in row.items() if name != "step"} for row in found.history
    ]
    assert seen[:2] == [row["validation_bound"] for row in found.history]
    assert seen[2] == pytest.approx({k: found.history[-1][k] for k in ("bound", "validation_bound", "collapsed_dims")})


def test_a_result_is_saved_and_goes_on_from_there(tmp_path) -> None:
    found = fastvi.fit("vae", X, epochs=2, validation_split=0.2, patience=5, **SMALL)
    assert not list(tmp_path.iterdir())
    again = fastvi.load(found.save(tmp_path / "saved"))
    assert_same(again.model, found.model)
    assert again.config == found.config
    assert again.history == found.history
    assert_same(fastvi.load(again.save(tmp_path / "copy")).model, found.model)
    longer = {"epochs": 4, "validation_split": 0.2, "patience": 5, **SMALL}
    resumed = fastvi.fit("vae", X, out=tmp_path / "saved", resume=True, **longer)
    assert_same(resumed.model, fastvi.fit("vae", X, **longer).model)
    with pytest.raises(RunError, match="saved is not empty: name another folder"):
        found.save(tmp_path / "saved")


def test_pretrained_models_come_back(tmp_path) -> None:
    pytest.importorskip("safetensors", reason="safetensors, the extra 'save', is not installed")
    found = fastvi.fit("vae", "digits", epochs=1, batch_size=500, **SMALL)
    path = found.save_pretrained(tmp_path / "model")
    assert {file.name for file in path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    again = fastvi.load(path)
    assert_same(again.model, found.model)
    assert_same(fastvi.from_pretrained(path), found.model)
    assert again.config == found.config
    card = (path / "README.md").read_text()
    command = next(line for line in card.splitlines() if line.startswith("fastvi train "))
    result = call(*command.split()[1:], "--no-evaluate", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert_same(fastvi.load(tmp_path / "run").model, found.model)
    own = fastvi.fit(mine(), X.reshape(120, 4, 4), "elbo", epochs=1)
    own.save_pretrained(tmp_path / "own")
    assert_same(fastvi.load(tmp_path / "own", Mine).model, own.model)
    (path / "model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(RunError, match="model is damaged or of another version"):
        fastvi.load(path)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    found = fastvi.fit("vae", X, epochs=1, **SMALL)
    with pytest.raises(ImportError, match=r"safetensors, the extra 'save': pip install \"fastvi\[save\]\""):
        found.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "vea"}, ValueError, "model must be one of vae, .*, or an object; got 'vea'"),
        ({"objective": "elbow"}, ValueError, "objective must be one of elbo, .*; got 'elbow'"),
        ({"latent_dims": 3}, TypeError, "unknown option 'latent_dims', did you mean latent_dim\\?"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"device": "tpu"}, ValueError, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"resume": True}, ValueError, "are of a run folder: name it by out"),
        ({"data": X * 300}, DataError, "values from 0 to 300"),
        ({"data": X * float("nan")}, DataError, "row 0, column 0: expected a finite number, got nan"),
        ({"data": (X, LABELS[:5])}, DataError, "labels"),
        ({"data": (X, LABELS, X)}, DataError, "expected a pair \\(examples, labels\\), got a tuple of 3"),
        ({"data": "digitz"}, DataError, "digitz"),
        ({"data": (x for x in X)}, TypeError, "can begin again for each epoch, got a generator"),
        (
            {"data": DataLoader(Stream()), "validation_split": 0.1},
            ValueError,
            "validation_split needs data that can be",
        ),
        ({"data": DataLoader(Stream()), "schedule": "cosine"}, ValueError, "schedule cosine needs data with a length"),
        ({"data": DataLoader(Stream()), "test": X}, ValueError, "test and test_split are of data that can be indexed"),
        ({"model": nn.Linear(1, 1), "likelihood": 1}, TypeError, "unknown option 'likelihood'; the options here are"),
        ({"model": nn.Linear(1, 1), "likelihood": None}, TypeError, "Linear lacks encode and log_likelihood"),
        ({"model": "conditional-vae"}, ValueError, "conditional-vae needs labels, and the data data have none"),
    ],
)
def test_mistakes_are_one_line(arguments, error, words) -> None:
    settings = {"model": "vae", "data": X, "epochs": 1, "likelihood": "bernoulli"} | arguments
    if settings["likelihood"] is None:
        del settings["likelihood"]
    with pytest.raises(error, match=words) as caught:
        fastvi.fit(**settings)
    assert len(str(caught.value).splitlines()) == 1


def test_arrays_of_numpy_are_not_changed() -> None:
    x = np.ones((40, 4), dtype=np.float64)
    x[::2] = 0
    before = x.copy()
    fastvi.fit("vae", x, epochs=1, **SMALL)
    assert np.array_equal(x, before)


def test_a_loaded_run_finds_data_that_have_a_name_or_a_path_and_says_where_others_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", X.numpy())
    for data in ("digits", "mine.npy"):
        found = fastvi.fit("vae", data, epochs=1, batch_size=500, out=f"run-{data}", **SMALL)
        own, again = (each.evaluate(num_samples=5, limit=20) for each in (found, fastvi.load(f"run-{data}")))
        assert (again.elbo, again.importance_weighted) == (own.elbo, own.importance_weighted)
    fastvi.fit("vae", X, epochs=1, out="given", **SMALL)
    with pytest.raises(ValueError, match="evaluate: the run has no test examples at hand: give some by data"):
        fastvi.load("given").evaluate()
    result = call("evaluate", "given")
    assert result.exit_code != 0
    assert "the data of the run given were given in Python, and only there they are known" in result.output
