"""Runs whose files were damaged, changed, taken from elsewhere, or cannot be written: one clear line, nothing else."""

import dataclasses
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastvi.objectives import ELBO, IWAE
from fastvi.training.checkpoint import checkpoint_bytes
from fastvi.training.config import RunError, RunFolder
from fastvi.training.data_record import DataRecord
from support.command import SMALL, assert_one_clear_line, call
from support.runs import as_made_by_the_first_version

pytestmark = pytest.mark.usefixtures("own_directory")

TRAIN = ("train", *SMALL, "--no-evaluate")
CORRUPTIONS = 200


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert call(*TRAIN, "--out", folder).exit_code == 0
    return folder


@pytest.fixture
def run(finished):
    shutil.copytree(finished, "run")
    return RunFolder(Path("run"))


def corrupted(content, generator):
    """The bytes with one thing wrong with them."""
    place = generator.randrange(len(content))
    length = generator.randrange(1, 64)
    changed = bytearray(content)
    match generator.randrange(7):
        case 0:
            changed[place] ^= 1 << generator.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            changed[place : place + length] = bytes(length)
        case 3:
            changed[place : place + length] = generator.randbytes(length)
        case 4:
            changed[place:place] = generator.randbytes(length)
        case 5:
            del changed[place : place + length]
        case 6:
            changed += generator.randbytes(length)
    return bytes(changed)


def read_all(run):
    return run.read_config(), run.read_record(), run.read_checkpoint()


def assert_right_or_refused(run, file, expected):
    """A file that was damaged is refused in one line that names it, or what is read is what was written."""
    found = message = None
    try:
        found = read_all(run)
    except RunError as error:
        message = str(error)
    if message is not None:
        assert str(file) in message
        assert len(message.splitlines()) == 1
        assert len(message) < 500
        return False
    assert found[:2] == expected[:2]
    assert found[2].keys() == expected[2].keys()
    for key in ("state_dict", "optimizer_states", "global_step", "epoch", "epoch_total", "epoch_examples", "loops"):
        torch.testing.assert_close(found[2][key], expected[2][key], rtol=0, atol=0)
    return True


@pytest.mark.parametrize("is_first_version", [False, True], ids=["this-version", "first-version"])
@pytest.mark.parametrize("name", ["checkpoint_file", "config_file"])
def test_random_damage_is_refused_or_harmless(run, name, is_first_version):
    if is_first_version:
        as_made_by_the_first_version(run.path)
    expected, file = read_all(run), getattr(run, name)
    content = file.read_bytes()
    refused = 0
    for seed in range(CORRUPTIONS):
        file.write_bytes(corrupted(content, random.Random(seed)))
        try:
            if is_first_version and name == "config_file":
                # No checksum tells a digit from another there; whatever is read must be a set of settings.
                try:
                    read_all(run)
                except RunError:
                    refused += 1
            else:
                refused += not assert_right_or_refused(run, file, expected)
        except Exception as error:
            raise AssertionError(f"corruption {seed}") from error
    assert refused > CORRUPTIONS // 2
    file.write_bytes(content)
    assert_right_or_refused(run, file, expected)


def test_every_cut_and_every_flipped_bit_of_the_weights_is_noticed(run):
    content = run.checkpoint_file.read_bytes()
    weights = run.read_checkpoint()["state_dict"]["model.encoder.0.weight"].numpy().tobytes()
    place = content.index(weights)
    for offset in range(0, len(weights), 97):
        changed = bytearray(content)
        changed[place + offset] ^= 1 << (offset % 8)
        run.checkpoint_file.write_bytes(changed)
        with pytest.raises(RunError, match=r"last\.ckpt is damaged: put a copy of it back, or start a new run"):
            run.load_model()
    for size in range(0, len(content), 499):
        run.checkpoint_file.write_bytes(content[:size])
        with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
            run.load_model()


@pytest.mark.parametrize("bits", [0, 3, 7])
def test_a_flipped_bit_in_the_directory_of_a_first_versions_archive_is_refused_or_harmless(run, bits):
    """No CRC covers it; PyTorch's reader believes it."""
    as_made_by_the_first_version(run.path)
    expected, content = read_all(run), run.checkpoint_file.read_bytes()
    for place in range(content.index(b"PK\1\2"), len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << bits
        run.checkpoint_file.write_bytes(changed)
        assert_right_or_refused(run, run.checkpoint_file, expected)


def test_a_checkpoint_that_lost_a_part_of_its_checksum_is_refused(run):
    """It must not pass for one of 0.1.0, which had none."""
    content = run.checkpoint_file.read_bytes()
    mark = content.rindex(b"fastvi blake2b ")
    damaged = [content[:end] for end in range(mark - 1, len(content))]
    damaged += [content + b"x", content[:mark] + b"F" + content[mark + 1 :]]
    for changed in damaged:
        run.checkpoint_file.write_bytes(changed)
        with pytest.raises(RunError, match=r"last\.ckpt is damaged"):
            run.load_model()


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def other_checkpoint(*options):
    assert call(*TRAIN, "--out", "other", *options).exit_code == 0
    return RunFolder(Path("other")).checkpoint_file.read_bytes()


CHECKPOINTS = {
    "empty": (lambda _: b"", "is damaged"),
    "text": (lambda _: b"a letter\n" * 100, "is damaged"),
    "json": (lambda _: b'{"state_dict": {}}', "is damaged"),
    "zip": (lambda _: b"PK\x05\x06" + bytes(18), "is damaged, or not a checkpoint of fastvi"),
    "list": (lambda _: saved([1, 2]), "is not a checkpoint of fastvi, but a list"),
    "null": (lambda _: saved(None), "is not a checkpoint of fastvi, but a NoneType"),
    "number": (lambda _: saved(3), "is not a checkpoint of fastvi, but a int"),
    "tensor": (lambda _: saved(torch.ones(3)), "is not a checkpoint of fastvi, but a Tensor"),
    "dictionary": (lambda _: saved({}), "is not a checkpoint of fastvi: its state_dict is missing"),
    "weights": (lambda run: saved(run.load_model().state_dict()), "is not a checkpoint of fastvi"),
    "part": (lambda run: saved({"state_dict": run.load_model().state_dict()}), "its global_step is missing"),
    "code": (lambda _: saved(Path("somewhere")), "is damaged, or not a checkpoint of fastvi"),
    "other-sizes": (lambda _: other_checkpoint("--latent-dim", 3), "of another run: its latent_dim is 3, not 2"),
    "other-seed": (lambda _: other_checkpoint("--seed", 3), "is of another run: its seed is 3, not 0"),
    "other-bound": (lambda _: other_checkpoint("--objective", "dreg"), "its objective is dreg, not iwae"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_is_not_the_runs_checkpoint_is_named(run, name):
    make, message = CHECKPOINTS[name]
    content = make(run)
    run.checkpoint_file.write_bytes(content)
    config = run.config_file.read_bytes()
    for arguments in (("train", "--resume", "run", "--epochs", 3), ("evaluate", "run")):
        result = call(*arguments)
        assert_one_clear_line(result, message)
        assert str(run.checkpoint_file) in result.stderr
    assert run.checkpoint_file.read_bytes() == content
    assert run.config_file.read_bytes() == config


def test_first_versions_checkpoint_of_another_model_is_named(run):
    other = RunFolder(Path("other"))
    other_checkpoint("--latent-dim", 3)
    as_made_by_the_first_version(other.path)
    shutil.copy(other.checkpoint_file, run.checkpoint_file)
    assert_one_clear_line(
        call("evaluate", "run"), "last.ckpt is of another model: model.decoder.0.weight has the shape"
    )


SETTINGS = {
    "data": [3, None, []],
    "image_shape": [None, "8x8", [8], [8, 8, 8], [8, "8"], [8, 0], [2**31, 2**31], [8.0, 8], [10**30, 1]],
    "objective": ["elb", None, 3, ["iwae"]],
    "num_samples": [0, -1, 1.5, "5", None, True, 10**30, float("nan")],
    "backward_samples": [0, 99, "1", 1.0],
    "beta": [-1.0, float("nan"), float("inf"), "1", None, True, 2.5],
    "free_bits": [-1.0, float("nan"), 10**400],
    "warm_up_steps": [-1, 0.5, 2**31],
    "latent_dim": [0, 10**9, 10**30, "2", None, 3, 2**31 - 1],
    "hidden_dims": [None, [], 8, [0], [8, -8], ["8"], [10**9, 10**9], [10**30], [[8]], {"8": 8}, [9]],
    "activation": ["sine", None, 3],
    "likelihood": ["poisson", "laplace", "binomial", None, ["bernoulli"]],
    "binarization": ["often", None],
    "epochs": [0, None, 1.0],
    "batch_size": [0, 10**30],
    "learning_rate": [0, 0.0, -1e-3, float("nan"), float("inf"), "1e-3", None],
    "seed": [-1, 2**64, 0.5, None],
}


def changed(settings, name, value):
    """The settings with another value of one of them, wherever it stands."""
    for part in ("objective", "model"):
        if isinstance(settings.get(part), dict) and name in settings[part]:
            return settings | {part: settings[part] | {name: value}}
    if name in ("objective", "model") and isinstance(settings[name], dict) and isinstance(value, str | None):
        return settings | {name: settings[name] | {"name": value}}
    return settings | {name: value}


def without(settings, name):
    """The settings without one of them, wherever it stands."""
    return {
        key: without(value, name) if key in ("objective", "model") and isinstance(value, dict) else value
        for key, value in settings.items()
        if key != name
    }


@pytest.mark.parametrize("is_first_version", [False, True], ids=["this-version", "first-version"])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_were_changed_by_hand_are_named(run, name, is_first_version):
    if name in ("beta", "free_bits", "warm_up_steps"):  # of another objective than the run's
        config = dataclasses.replace(run.read_config(), objective=ELBO(2))
        run.write_config(config, run.read_record())
        checkpoint = run.read_checkpoint(dataclasses.replace(config, objective=IWAE(2)))
        checkpoint["settings"] = config.lasting()
        run.checkpoint_file.write_bytes(checkpoint_bytes(checkpoint))
    if is_first_version:
        as_made_by_the_first_version(run.path)
    settings = json.loads(run.config_file.read_text())
    for value in SETTINGS[name]:
        if is_first_version and name == "beta" and value == 2.5:
            continue  # a set of settings as good as any other: nothing tells that it was not always so
        run.config_file.write_text(json.dumps(changed(settings, name, value)))
        with pytest.raises(RunError) as caught:
            run.load_model()
        # Sizes that a model may have are not those of the checkpoint.
        assert str(run.config_file) in str(caught.value) or f"{run.checkpoint_file} is of another model" in str(
            caught.value
        )
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 500
    run.config_file.write_text(json.dumps(without(settings, name)))
    with pytest.raises(RunError, match=f"{name} missing"):
        run.load_model()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"a letter", "Expecting value"),
        (b"[]", "it must hold settings by name, got a list"),
        (b"null", "it must hold settings by name, got a NoneType"),
        (b"3", "it must hold settings by name, got a int"),
        (b"{}", "activation, backward_samples"),
        (b"\xff\xfe{", "can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5000, "limit"),
    ],
    ids=["empty", "text", "list", "null", "number", "nothing", "not-utf8", "deep", "digits"],
)
def test_a_config_that_is_none_is_named(run, content, message):
    run.config_file.write_bytes(content)
    for arguments in (("train", "--resume", "run"), ("evaluate", "run")):
        result = call(*arguments)
        assert_one_clear_line(result, "run/config.json is damaged or of another version (")
        assert message in result.stderr
        assert "put a copy of it back, or start a new run" in result.stderr


def test_unknown_settings_and_newer_formats_are_named(run):
    settings = json.loads(run.config_file.read_text())
    for changes, message in (
        ({"momentum": 0.9}, "'momentum' unknown"),
        ({"fastvi_run": 4}, "a newer fastvi wrote it, in format 4; this one reads up to 3"),
        ({"fastvi_run": "3"}, "fastvi_run must be a whole number from 2 to 3, got '3'"),
        ({"fastvi_run": 1}, "fastvi_run must be a whole number from 2 to 3, got '1'"),
        ({"objective": settings["objective"] | {"beta": 1.0}}, "objective iwae: 'beta' unknown"),
        ({"model": settings["model"] | {"name": "gan"}}, "no model 'gan' is registered, only vae"),
        ({"model": "vae"}, "model must hold a name and its options, got vae"),
        ({"data_record": 3}, "data_record must have the keys train_images"),
        ({"data_record": {}}, "data_record must have the keys train_images"),
        ({"data_record": settings["data_record"] | {"train_images": "60"}}, "data_record must hold two numbers"),
        ({"data_record": settings["data_record"] | {"test_images": 296}}, "was changed after fastvi wrote it"),
        ({"seed": 3}, "was changed after fastvi wrote it"),
        ({"checksum": 3}, "was changed after fastvi wrote it"),
    ):
        run.config_file.write_text(json.dumps(settings | changes))
        result = call("train", "--resume", "run")
        assert_one_clear_line(result, message)
    # Another layout of the same values is not a change.
    run.config_file.write_text(json.dumps(dict(reversed(settings.items()))))
    assert run.read_config().seed == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "can't decode"),
        (b"step,epoch,bound,seconds\nx,1,2,3\n", "invalid literal"),
        (b"step,epoch,bound,seconds\n3,1\n", "more or fewer values"),
        (b"step,epoch,bound,seconds\n3,1,2,3,4\n", "more or fewer values"),
        (b"epoch,bound\n1,2\n", "step"),
        (b'step,epoch\n"3,1\n', "unexpected end of data"),
    ],
    ids=["not-utf8", "no-number", "short", "long", "no-step", "quote"],
)
def test_metrics_that_cannot_be_gone_on_from_are_named(run, content, message):
    run.metrics_file.write_bytes(content)
    assert_one_clear_line(call("train", "--resume", "run", "--epochs", 3), "run/metrics.csv is damaged (")
    assert run.metrics_file.read_bytes() == content
    run.metrics_file.unlink()
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0


# Writing


def limited(arguments, size):
    """The command in a process that may write no more than ``size`` bytes into a file, as if its disk were full."""
    code = f"import resource, signal, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    code += "from fastvi.cli import main\nmain()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def partials():
    return list(Path().rglob("*.partial"))


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(run):
    before = run.checkpoint_file.read_bytes()
    finished = limited(("train", "--resume", "run", "--epochs", 3, "--no-evaluate"), len(before) // 2)
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == ["Error: run/checkpoints/last.ckpt cannot be written: File too large"]
    assert run.checkpoint_file.read_bytes() == before
    assert partials() == []
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0
    assert len(run.metrics_file.read_text().splitlines()) == 4


def test_settings_that_cannot_be_written_leave_nothing_behind():
    finished = limited((*TRAIN, "--out", "run"), 100)
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == ["Error: run/config.json cannot be used: File too large"]
    assert not Path("run").exists()


def test_metrics_that_cannot_be_written_end_the_run_in_one_line(run):
    run.metrics_file.unlink()
    run.metrics_file.mkdir()
    before = run.checkpoint_file.read_bytes()
    assert_one_clear_line(call("train", "--resume", "run", "--epochs", 3), "run/metrics.csv cannot be")
    assert run.checkpoint_file.read_bytes() == before
    assert partials() == []


def test_a_folder_of_checkpoints_that_is_a_file_is_named(run):
    shutil.rmtree(run.checkpoint_file.parent)
    run.checkpoint_file.parent.write_text("")
    assert_one_clear_line(call("train", "--resume", "run"), "last.ckpt cannot be read: Not a directory")
    assert_one_clear_line(call("evaluate", "run"), "last.ckpt cannot be read: Not a directory")


def test_first_versions_runs_go_on(run):
    """To the same parameters as a run that this version began."""
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0
    expected = run.read_checkpoint()["state_dict"]
    assert call(*TRAIN, "--out", "first").exit_code == 0
    first = RunFolder(Path("first"))
    as_made_by_the_first_version(first.path)
    result = call("train", "--resume", "first", "--epochs", 3, "--no-evaluate")
    assert result.exit_code == 0, result.output
    torch.testing.assert_close(first.read_checkpoint()["state_dict"], expected, rtol=0, atol=0)
    assert isinstance(first.read_record(), DataRecord)
    assert dataclasses.replace(first.read_config(), epochs=2) == dataclasses.replace(run.read_config(), epochs=2)


def test_checkpoints_stay_files_that_pytorch_reads(run):
    checkpoint = torch.load(run.checkpoint_file, weights_only=True)
    assert checkpoint["state_dict"].keys() == run.read_checkpoint()["state_dict"].keys()
    assert run.checkpoint_file.stat().st_size < 10**6
