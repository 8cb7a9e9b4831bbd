"""Training: batches as a function of the step, resumed runs equal to uninterrupted ones, files always whole."""

import dataclasses
import hashlib
import io
import itertools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from fastvi.data import Dataset, load_dataset
from fastvi.models import VAE, VAEOptions
from fastvi.objectives import ELBO, IWAE, MIWAE, PIWAE, STL, DReG
from fastvi.seeding import mix_seed
from fastvi.training import settings
from fastvi.training.batches import ShuffledBatches
from fastvi.training.checkpoint import checkpoint_bytes
from fastvi.training.config import RunError, RunFolder
from fastvi.training.files import atomic_write
from fastvi.training.loggers import MetricsFile
from fastvi.training.module import VariationalModule
from fastvi.training.pictures import save_grid, write_pictures
from fastvi.training.trainer import train
from support.runs import CONFIG, assert_same_end, metrics_without_seconds, run


@pytest.fixture(scope="module")
def digits():
    """A hundred of the digits: 8 x 8, seven batches of 16."""
    whole = load_dataset("digits")
    return Dataset("digits", whole.train[:100], whole.test[:40], whole.image_shape, whole.likelihood)


class StopHereError(Exception):
    """Raised by a test in the middle of a run."""


def stop_at_step(monkeypatch, step):
    whole = VariationalModule.training_step

    def training_step(self, batch, batch_index):
        if batch.step == step:
            raise StopHereError
        whole(self, batch, batch_index)

    monkeypatch.setattr(VariationalModule, "training_step", training_step)


# Seeds and batches


def test_seeds_differ_in_every_counter_and_order():
    streams = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**63, 7)]
    seeds = {mix_seed(seed, *stream) for seed in (0, 1, -1, 2**64 - 2) for stream in streams}
    assert len(seeds) == 4 * len(streams)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix_seed(-1, 3) == mix_seed(2**64 - 1, 3)


def test_an_epoch_shows_each_example_once_in_its_own_order():
    batches = ShuffledBatches(10, 4, seed=1)
    epochs = [list(batches) for _ in range(3)]
    assert [[batch.indices.shape[0] for batch in epoch] for epoch in epochs] == [[4, 4, 2]] * 3
    assert [batch.step for epoch in epochs for batch in epoch] == list(range(9))
    orders = [torch.cat([batch.indices for batch in epoch]).tolist() for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert len(batches) == 3


@pytest.mark.parametrize("step", range(7))
def test_batches_go_on_from_any_step(step):
    def flat(batches, epochs):
        return [(batch.step, batch.indices.tolist()) for _ in range(epochs) for batch in batches]

    whole = flat(ShuffledBatches(10, 4, seed=1), 4)
    assert flat(ShuffledBatches(10, 4, seed=1, first_step=step), 4)[: 9 - step] == whole[step:9]
    restored = ShuffledBatches(10, 4, seed=1)
    restored.load_state_dict({"step": step})
    assert flat(restored, 1) == flat(ShuffledBatches(10, 4, seed=1, first_step=step), 1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_processes_share_each_batch_in_consecutive_pieces(world_size):
    whole = list(ShuffledBatches(10, 4, seed=1))
    shares = [list(ShuffledBatches(10, 4, seed=1, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        pieces = [share[number] for share in shares]
        assert torch.equal(torch.cat([piece.indices for piece in pieces]), batch.indices)
        position = 0
        for piece in pieces:
            assert (piece.row_offset, piece.global_size) == (position, batch.global_size)
            position += piece.indices.shape[0]


# Runs


def test_one_seed_one_result(tmp_path, digits):
    first = run(tmp_path / "first", digits)
    torch.manual_seed(123)  # the state of PyTorch's own generator must not matter
    second = run(tmp_path / "second", digits)
    assert_same_end(first, second)
    third = run(tmp_path / "third", digits, dataclasses.replace(CONFIG, seed=6))
    assert metrics_without_seconds(third) != metrics_without_seconds(first)


def test_training_raises_the_bound(tmp_path, digits):
    folder = run(tmp_path / "run", digits, dataclasses.replace(CONFIG, epochs=20))
    bounds = [float(row["bound"]) for row in metrics_without_seconds(folder)]
    assert len(bounds) == 20
    # The bias alone gives the first epoch's bound; what two latent dimensions add is over a nat.
    assert bounds[-1] > bounds[0] + 1.0


def test_bfloat16_run_is_close_to_the_one_in_float32_and_resumes_to_the_bit(tmp_path, digits, monkeypatch):
    plain = run(tmp_path / "plain", digits)
    config = dataclasses.replace(CONFIG, precision="bf16-mixed")
    whole = run(tmp_path / "whole", digits, config)
    with monkeypatch.context() as patch:
        stop_at_step(patch, 9)
        with pytest.raises(StopHereError):
            run(tmp_path / "resumed", digits, config, checkpoint_every=4)
    assert_same_end(run(tmp_path / "resumed", digits, config), whole)
    assert whole.read_config() == config
    ends = [folder.read_checkpoint()["state_dict"] for folder in (plain, whole)]
    assert all(value.dtype == torch.float32 for value in ends[1].values())
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for one, other in zip(metrics_without_seconds(plain), metrics_without_seconds(whole), strict=True):
        # Factors with relative errors of 2^-8 in 64 logits of size one, whose errors have any sign.
        assert float(one["bound"]) == pytest.approx(float(other["bound"]), abs=0.1)


def test_the_objective_is_in_the_region_and_the_bound_in_float32(tmp_path, digits, monkeypatch):
    seen = []
    whole = IWAE.__call__

    def watched(self, *arguments, **options):
        bound = whole(self, *arguments, **options)
        seen.append((torch.is_autocast_enabled("cpu"), bound.dtype))
        return bound

    monkeypatch.setattr(IWAE, "__call__", watched)
    for precision, inside in (("32-true", False), ("bf16-mixed", True)):
        seen.clear()
        run(tmp_path / precision, digits, dataclasses.replace(CONFIG, epochs=1, precision=precision))
        assert set(seen) == {(inside, torch.float32)}


def test_a_run_without_a_precision_was_in_float32(tmp_path, digits):
    """As this format had none at first."""
    whole = run(tmp_path / "whole", digits)
    folder = run(tmp_path / "run", digits, dataclasses.replace(CONFIG, epochs=1))
    content = json.loads(folder.config_file.read_text())
    assert content.pop("precision") == "32-true"
    del content["checksum"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
    folder.config_file.write_text(json.dumps(content, indent=2) + "\n")
    checkpoint = folder.read_checkpoint()
    assert checkpoint["settings"].pop("precision") == "32-true"
    folder.checkpoint_file.write_bytes(checkpoint_bytes(checkpoint))
    assert folder.read_config() == dataclasses.replace(CONFIG, epochs=1)
    assert_same_end(run(tmp_path / "run", digits), whole)
    with pytest.raises(RunError, match="its precision is 32-true, not bf16-mixed"):
        folder.read_checkpoint(dataclasses.replace(CONFIG, precision="bf16-mixed"))


@pytest.mark.parametrize("objective", [ELBO(3), DReG(3), STL(3)])
def test_every_objective_trains(tmp_path, digits, objective):
    folder = run(tmp_path / "run", digits, dataclasses.replace(CONFIG, objective=objective))
    bounds = [float(row["bound"]) for row in metrics_without_seconds(folder)]
    assert bounds[-1] > bounds[0]


def test_gaussian_data_train(tmp_path, digits):
    model = dataclasses.replace(CONFIG.model, likelihood="gaussian")
    config = dataclasses.replace(CONFIG, model=model, binarization="none", learning_rate=1e-3)
    bounds = [float(row["bound"]) for row in metrics_without_seconds(run(tmp_path / "run", digits, config))]
    assert bounds[-1] > bounds[0]


@pytest.mark.cuda
def test_training_on_a_gpu(tmp_path, digits):
    """The same batches and the same noise as on the CPU; resumed, the same steps; and the model comes back."""
    on_cpu = metrics_without_seconds(run(tmp_path / "cpu", digits))
    whole = run(tmp_path / "whole", digits, device="cuda")
    for row, expected in zip(metrics_without_seconds(whole), on_cpu, strict=True):
        assert float(row["bound"]) == pytest.approx(float(expected["bound"]), rel=1e-3)
    first = dataclasses.replace(CONFIG, epochs=1)
    folder = run(tmp_path / "resumed", digits, first, device="cuda")
    model = train(CONFIG, digits, folder, console=Console(file=io.StringIO()), progress=False, device="cuda")
    torch.testing.assert_close(
        folder.read_checkpoint()["state_dict"], whole.read_checkpoint()["state_dict"], rtol=1e-5, atol=1e-6
    )
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_run_resumed_after_an_epoch_equals_an_uninterrupted_one(tmp_path, digits):
    whole = run(tmp_path / "whole", digits)
    part = run(tmp_path / "part", digits, dataclasses.replace(CONFIG, epochs=1))
    assert part.trained_epochs() == 1
    assert_same_end(run(part.path, digits), whole)


@pytest.mark.parametrize("step", [3, 6, 7, 9, 16])
def test_run_resumed_within_an_epoch_equals_an_uninterrupted_one(tmp_path, digits, monkeypatch, step):
    whole = run(tmp_path / "whole", digits)
    with monkeypatch.context() as patch:
        stop_at_step(patch, step)
        with pytest.raises(StopHereError):
            run(tmp_path / "part", digits, checkpoint_every=2)
    part = RunFolder(tmp_path / "part")
    assert part.read_checkpoint()["global_step"] == max(step // 2 * 2, step // 7 * 7)
    assert_same_end(run(part.path, digits, checkpoint_every=2), whole)


def test_run_stopped_before_its_first_checkpoint_starts_again(tmp_path, digits, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at_step(patch, 2)
        with pytest.raises(StopHereError):
            run(tmp_path / "part", digits)
    assert RunFolder(tmp_path / "part").trained_epochs() == 0
    assert_same_end(run(tmp_path / "part", digits), run(tmp_path / "whole", digits))


def test_killed_process_leaves_a_run_that_resumes_to_the_same_parameters(tmp_path):
    options = "--epochs 100000 --hidden-dims 8 --latent-dim 2 --num-samples 2 --batch-size 500 --seed 7 --threads 1"
    command = [sys.executable, "-c", "from fastvi.cli import main; main()", "train", *options.split()]
    command += ["--no-progress", "--no-evaluate", "--out", str(tmp_path / "killed")]
    killed = RunFolder(tmp_path / "killed")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (killed.checkpoint_file.exists() and killed.trained_epochs() >= 3):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    trained = killed.trained_epochs()
    assert trained >= 2
    config = dataclasses.replace(killed.read_config(), epochs=trained + 2)
    data = load_dataset("digits")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert_same_end(run(killed.path, data, config), run(tmp_path / "whole", data, config))
    finally:
        torch.set_num_threads(threads)


def test_finished_run_is_left_as_it_is(tmp_path, digits):
    folder = run(tmp_path / "run", digits)
    before = folder.read_checkpoint()["state_dict"]
    torch.testing.assert_close(run(folder.path, digits).read_checkpoint()["state_dict"], before, rtol=0, atol=0)


def test_bound_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, digits, monkeypatch):
    objective = ELBO.__call__
    factors = itertools.chain([1.0] * 10, itertools.repeat(float("nan")))

    def poisoned(self, *arguments, **options):
        return objective(self, *arguments, **options) * next(factors)

    monkeypatch.setattr(ELBO, "__call__", poisoned)
    config = dataclasses.replace(CONFIG, objective=ELBO(3))
    kept = r"became nan in epoch 2: try a smaller `learning_rate` \(the checkpoint of the epoch before is kept\)$"
    with pytest.raises(RunError, match=kept):
        run(tmp_path / "run", digits, config)
    folder = RunFolder(tmp_path / "run")
    assert folder.trained_epochs() == 1
    assert all(value.isfinite().all() for value in folder.load_model().state_dict().values())


def test_no_checkpoint_is_kept_where_there_was_none(tmp_path, digits):
    # Which of the two the overflow ends in is up to the order of the sums.
    with pytest.raises(RunError, match=r"became (nan|-inf) in epoch 1: try a smaller `learning_rate`$"):
        run(tmp_path / "run", digits, dataclasses.replace(CONFIG, learning_rate=1e30))
    assert RunFolder(tmp_path / "run").trained_steps() == 0


def test_parameters_that_are_no_numbers_never_replace_a_checkpoint(tmp_path, digits, monkeypatch):
    """The bound of the step that spoils them is finite still: so a checkpoint within the epoch, and at its end."""
    step = VariationalModule.training_step

    def spoiling(self, batch, batch_index):
        step(self, batch, batch_index)
        if batch.step == spoiled:
            torch.nn.utils.vector_to_parameters(torch.full((10**4,), float("inf")), self.model.parameters())

    monkeypatch.setattr(VariationalModule, "training_step", spoiling)
    for spoiled, every, kept in (
        (9, 2, " (the checkpoint of step 8 is kept)"),
        (13, None, " (the checkpoint of the epoch before is kept)"),
        (7, 1, " (the checkpoint of the epoch before is kept)"),
        (0, 1, ""),
    ):
        path = tmp_path / str(spoiled)
        with pytest.raises(RunError) as caught:
            run(path, digits, checkpoint_every=every)
        epoch = spoiled // 7 + 1
        expected = f"the parameters became infinite or NaN in epoch {epoch}: try a smaller `learning_rate`{kept}"
        assert str(caught.value) == expected
        if kept:
            assert all(value.isfinite().all() for value in RunFolder(path).load_model().state_dict().values())


def lines_of(digits, tmp_path, **changes):
    folder, log = RunFolder(tmp_path / "run"), io.StringIO()
    config = dataclasses.replace(CONFIG, batch_size=100, model=VAEOptions(2, (2,)), **changes)
    folder.write_config(config)
    train(config, digits, folder, console=Console(file=log), progress=False)
    return [int(line.split()[1].split("/")[0]) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 200])
def test_a_log_gets_a_line_for_each_tenth_part(tmp_path, digits, monkeypatch, epochs):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    expected = {1, epochs} | {-(-part * epochs // 10) for part in range(1, 11)}
    assert lines_of(digits, tmp_path, epochs=epochs) == sorted(expected)


def test_a_log_gets_a_line_every_few_seconds(tmp_path, digits, monkeypatch):
    """Each epoch takes four seconds by this clock."""
    clock = itertools.count(step=4.0)
    whole = VariationalModule.on_train_epoch_start

    def on_train_epoch_start(self):
        now = next(clock)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        whole(self)

    monkeypatch.setattr(VariationalModule, "on_train_epoch_start", on_train_epoch_start)
    shown = lines_of(digits, tmp_path, epochs=100)
    assert shown[0] == 1
    assert shown[-1] == 100
    assert all(1 <= after - before <= 3 for before, after in itertools.pairwise(shown))
    assert len(shown) < 50


def test_warm_up_raises_beta_step_by_step(tmp_path, digits, monkeypatch):
    betas = []
    objective = ELBO.__call__

    def recording(self, *arguments, **options):
        betas.append(self.beta)
        return objective(self, *arguments, **options)

    monkeypatch.setattr(ELBO, "__call__", recording)
    run(tmp_path / "run", digits, dataclasses.replace(CONFIG, objective=ELBO(3, beta=0.5, warm_up_steps=4), epochs=1))
    assert betas == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_optimiser_is_fused_adam(digits):
    optimizer = VariationalModule(CONFIG, CONFIG.build_model(), digits).configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    settings = {name: optimizer.defaults[name] for name in ("lr", "betas", "eps", "fused")}
    assert settings == {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 5e-6, "fused": True}


def test_bar_shows_epoch_bound_and_time_left(tmp_path, digits):
    folder = RunFolder(tmp_path / "run")
    folder.write_config(CONFIG)
    screen = io.StringIO()
    train(CONFIG, digits, folder, console=Console(file=screen, force_terminal=True, width=80), progress=True)
    shown = screen.getvalue()
    for text in ("epoch 3/3", "100%", "bound -", "0:00:00", "left"):
        assert text in shown
    assert len(shown.splitlines()) < 100


def test_nothing_but_the_run_reaches_the_terminal(tmp_path, digits, capfd):
    run(tmp_path / "run", digits)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# Files


def test_folder_gives_back_what_it_was_given(tmp_path, digits):
    folder = run(tmp_path / "run", digits)
    assert folder.read_config() == CONFIG
    model = folder.load_model()
    assert isinstance(model, VAE)
    assert not model.training
    kept = folder.read_checkpoint()["state_dict"]
    assert {f"model.{name}" for name in model.state_dict()} == set(kept)


def test_damaged_folders_are_named(tmp_path, digits):
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match=r"is not a run folder: it has no config\.json"):
        folder.read_config()
    folder.write_config(CONFIG)
    with pytest.raises(RunError, match="no checkpoint yet"):
        folder.load_model()
    folder.checkpoint_file.write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
        folder.read_checkpoint()
    folder.config_file.write_text('{"image_shape": [8, 8], "hidden_dims": [8]}')
    with pytest.raises(RunError, match=r"config\.json is damaged or of another version"):
        folder.read_config()


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"old")

    def fail_half_way():
        with atomic_write(path) as file:
            file.write(b"half of the ne")
            raise StopHereError

    with pytest.raises(StopHereError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    for step in (7, 14, 21):
        metrics.log_metrics({"bound": -step / 2}, step=step)
    resumed = MetricsFile(path, first_step=14)
    resumed.log_metrics({"bound": -1.0}, step=21)
    assert path.read_text() == "step,bound\n7,-3.5\n14,-7.0\n21,-1.0\n"
    fresh = MetricsFile(path)
    fresh.log_metrics({"bound": 0.0}, step=7)
    assert path.read_text() == "step,bound\n7,0.0\n"


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_pictures(tmp_path, digits, latent_dim):
    model = VAE(64, latent_dim, (8,))
    paths = write_pictures(model, digits.test, (8, 8), tmp_path)
    names = {path.name for path in paths}
    assert names == {"reconstructions.png", "samples.png"} | ({"manifold.png"} if latent_dim == 2 else set())
    gap = 8
    tile = 8 * gap + gap  # enlarged eight times, with a gap as wide
    sizes = {path.name: imread(path).shape[:2] for path in paths}
    assert sizes["reconstructions.png"] == (8 * tile + gap, 12 * tile + gap)
    assert sizes["samples.png"] == (12 * tile + gap, 12 * tile + gap)
    assert sizes.get("manifold.png", (1448, 1448)) == (20 * tile + gap, 20 * tile + gap)


def test_grid_holds_the_images_row_by_row(tmp_path):
    images = torch.linspace(0.0, 1.0, 5).reshape(5, 1, 1).expand(5, 28, 28)
    save_grid(images, 3, tmp_path / "grid.png")
    grey = torch.from_numpy(imread(tmp_path / "grid.png"))
    assert grey.shape == (2 * 87 + 3, 3 * 87 + 3)  # enlarged three times
    centres = torch.stack([grey[45 + 87 * (number // 3), 45 + 87 * (number % 3)] for number in range(5)])
    # Eight bits to a pixel.
    torch.testing.assert_close(centres, torch.linspace(0.0, 1.0, 5), rtol=0, atol=1 / 255)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (lambda: {"seed": -1}, ValueError, "seed must be from 0"),
        (lambda: {"epochs": 0}, ValueError, "epochs must be from 1"),
        (lambda: {"learning_rate": 0.0}, ValueError, "learning_rate must be positive"),
        (lambda: {"precision": 32}, ValueError, "precision must be one of 32-true, bf16-mixed, got 32"),
        (lambda: {"objective": ELBO(beta=-1.0)}, ValueError, "beta must be finite and not negative"),
        (lambda: {"objective": ELBO(beta=4e38)}, ValueError, "beta must be a finite number of float32"),
        (lambda: {"objective": ELBO(beta=torch.tensor(1.0))}, TypeError, "beta must be a number, got tensor"),
        (lambda: {"objective": "iwae"}, TypeError, "objective must be a fastvi Objective, got str"),
        (lambda: {"model": VAE(64)}, TypeError, "model must be a fastvi ModelOptions, got VAE"),
        (lambda: {"model": VAEOptions(hidden_dims=())}, ValueError, "hidden_dims must be positive"),
        (lambda: {"model": VAEOptions(hidden_dims=4)}, TypeError, "hidden_dims must be a tuple"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, digits, changes, error, words):
    with pytest.raises(error, match=words):
        run(tmp_path / "run", digits, dataclasses.replace(CONFIG, **changes()))
    assert not list(tmp_path.rglob("*.json"))


def test_settings_may_be_numbers_of_numpy_and_lists(tmp_path, digits):
    config = dataclasses.replace(
        CONFIG,
        model=VAEOptions(np.int64(2), [16]),
        objective=IWAE(np.int32(3)),
        batch_size=np.int64(100),
        learning_rate=np.float32(0.125),
        epochs=np.int64(1),
    )
    run(tmp_path / "run", digits, config)
    assert RunFolder(tmp_path / "run").read_config() == dataclasses.replace(
        CONFIG, model=VAEOptions(2, (16,)), batch_size=100, learning_rate=0.125, epochs=1
    )


@pytest.mark.parametrize("kind", [MIWAE, PIWAE])
def test_memory_is_that_of_the_samples_of_all_bounds(kind, monkeypatch):
    """M bounds of K samples are refused where IWAE with M K samples is, and allowed where it is."""
    parameters = sum(parameter.numel() for parameter in CONFIG.build_outline().parameters())
    # Four numbers for each parameter; 8 units, the widest layer, for each of 16 examples and 12 samples.
    needed = 16 * parameters + 4 * 8 * 16 * 12
    for enough in (True, False):
        present = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": needed if enough else needed - 1}
        monkeypatch.setattr(settings.os, "sysconf", present.__getitem__)
        for objective in (IWAE(12), kind(3, 4), kind(4, 3)):
            config = dataclasses.replace(CONFIG, objective=objective)
            if enough:
                settings.check_memory(config, 100)
                continue
            with pytest.raises(ValueError, match="`num_samples` and `batch_size` need at least"):
                settings.check_memory(config, 100)
