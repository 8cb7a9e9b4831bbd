"""The command line, as its user meets it: files, tables, messages and exit codes."""

import dataclasses
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from fastvi.commands.shared import choose_device
from fastvi.objectives import DReG
from fastvi.ops import _backends
from fastvi.training import hints, settings
from fastvi.training import processes as training_processes
from fastvi.training.config import RunFolder
from fastvi.training.module import VariationalModule
from support.command import SHORT_EVALUATION, SMALL, assert_one_clear_line, call
from support.data_files import write_image_files
from support.processes import printed_by

pytestmark = pytest.mark.usefixtures("own_directory")


def test_training_leaves_a_complete_run_folder(tmp_path):
    result = call("train", *SMALL, *SHORT_EVALUATION)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "digits-iwae-001"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {"config.json", "metrics.csv", "checkpoints/last.ckpt", "evaluation.json"}
    expected |= {"reconstructions.png", "samples.png", "manifold.png"}
    assert expected <= names
    if importlib.util.find_spec("tensorboard"):
        assert any(name.startswith("tensorboard/events.out.tfevents") for name in names)
    for text in ("epoch 2/2", "test ELBO", "test L_2", "test L_50", "active units", "effective sample size"):
        assert text in result.output
    assert "20 of 297 test images" in result.output
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["images"], evaluation["test_images"], evaluation["num_samples"]) == (20, 297, 50)
    assert evaluation["elbo"] < evaluation["training_bound"] < evaluation["importance_weighted"] < 0.0


def test_runs_are_numbered(tmp_path):
    for _ in range(2):
        assert call("train", *SMALL, "--no-evaluate", "--objective", "elbo").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-elbo-001", "digits-elbo-002"]


def test_evaluate_repeats_the_figures_of_training():
    assert call("train", *SMALL, *SHORT_EVALUATION, "--out", "run").exit_code == 0
    trained = json.loads(Path("run/evaluation.json").read_text())
    result = call("evaluate", "run", "--num-samples", 50, "--limit", 20)
    assert result.exit_code == 0, result.output
    evaluated = json.loads(Path("run/evaluation.json").read_text())
    assert trained | {"seconds": 0.0} == evaluated | {"seconds": 0.0}
    assert "test L_50" in result.output


def test_resuming_extends_a_run():
    assert call("train", *SMALL, "--no-evaluate", "--out", "run").exit_code == 0
    assert call("train", *SMALL, "--no-evaluate", "--out", "whole", "--epochs", 3).exit_code == 0
    result = call("train", "--resume", "run", "--epochs", 3, "--latent-dim", 2, "--no-evaluate")
    assert result.exit_code == 0, result.output
    assert "epoch 3/3" in result.output
    assert "epoch 2/3" not in result.output
    resumed, whole = RunFolder(Path("run")), RunFolder(Path("whole"))
    torch.testing.assert_close(
        resumed.read_checkpoint()["state_dict"], whole.read_checkpoint()["state_dict"], rtol=0, atol=0
    )
    assert resumed.read_config() == whole.read_config()


def test_resuming_refuses_what_contradicts_the_run():
    assert call("train", *SMALL, "--no-evaluate", "--out", "run").exit_code == 0
    before = RunFolder(Path("run")).checkpoint_file.read_bytes()
    for option, value, kept in (
        ("--latent-dim", "3", "contradicts the 2 of the run"),
        ("--hidden-dims", "8,8", "contradicts the (8,) of the run"),
        ("--learning-rate", "0.5", "contradicts the 0.001 of the run"),
        ("--precision", "bf16-mixed", "contradicts the 32-true of the run"),
        ("--epochs", "1", "already gone through 2 epochs"),
        ("--out", "elsewhere", "leave out --out and --overwrite"),
    ):
        assert_one_clear_line(call("train", "--resume", "run", option, value), kept)
    assert RunFolder(Path("run")).checkpoint_file.read_bytes() == before


def test_bfloat16_is_refused_where_it_gains_nothing_and_a_run_that_has_it_goes_on(monkeypatch):
    options = (*SMALL, "--no-evaluate", "--out", "run", "--precision", "bf16-mixed", "--device", "cpu")
    monkeypatch.setattr(settings, "MULTIPLIED_BY_PROCESSOR", frozenset())
    assert_one_clear_line(call("train", *options), "this processor has no instructions for products of bfloat16")
    assert not Path("run").exists()
    monkeypatch.setattr(settings, "MULTIPLIED_BY_PROCESSOR", frozenset({torch.bfloat16}))
    assert call("train", *options).exit_code == 0
    assert RunFolder(Path("run")).read_config().precision == "bf16-mixed"
    monkeypatch.setattr(settings, "MULTIPLIED_BY_PROCESSOR", frozenset())
    resumed = call("train", "--resume", "run", "--epochs", 3, "--no-evaluate", "--device", "cpu")
    assert resumed.exit_code == 0
    assert "the run's precision bf16-mixed gains nothing here" in resumed.output.replace("\n", " ")


def test_existing_folders_are_not_overwritten_unasked(tmp_path):
    assert call("train", *SMALL, "--no-evaluate", "--out", "run").exit_code == 0
    assert_one_clear_line(call("train", *SMALL, "--out", "run"), "go on with --resume run, or add --overwrite")
    (tmp_path / "run" / "evaluation.json").touch()
    assert call("train", *SMALL, "--no-evaluate", "--out", "run", "--overwrite").exit_code == 0
    assert not (tmp_path / "run" / "evaluation.json").exists()
    precious = tmp_path / "papers" / "thesis.tex"
    precious.parent.mkdir()
    precious.touch()
    assert_one_clear_line(call("train", *SMALL, "--out", "papers", "--overwrite"), "is no run folder")
    assert precious.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "--data", "cifar"),
            "unknown data set 'cifar': choose one of digits, digits-counts, moving-spot, mnist",
        ),
        (("train", "--data", "mnist"), "name it with --data-dir or FASTVI_DATA"),
        (("train", "--data", "mnist", "--data-dir", "nowhere"), "the data folder nowhere does not exist"),
        (("train", "--data", "mnist", "--data-dir", "."), "expected the file train-images-idx3-ubyte.gz"),
        (("train", "--objective", "elb"), "--objective must be one of elbo, iwae"),
        (("train", "--binarization", "often"), "--binarization must be one of dynamic, static, none, got 'often'"),
        (("train", "--hidden-dims", "8x8"), "widths separated by commas, such as 200,200; got '8x8'"),
        (("train", "--hidden-dims", "8,0"), "--hidden-dims must be widths from 1 to 2147483647, got '8,0'"),
        (("train", "--activation", "sine"), "--activation must be one of tanh"),
        (("train", "--likelihood", "gamma"), "--likelihood must be one of bernoulli, gaussian"),
        (("train", "--learning-rate", "0"), "--learning-rate must be positive, got 0.0"),
        (("train", "--beta", "2"), "--beta belongs to the objectives elbo and ciwae, not to iwae"),
        (("train", "--backward-samples", "9"), "--backward-samples must be at most --num-samples = 5, got 9"),
        (
            ("train", "--objective", "elbo", "--backward-samples", "1"),
            "--backward-samples belongs to the objective iwae, not to elbo",
        ),
        (("train", "--resume", "nowhere"), "nowhere is not a run folder"),
        (("train", "--precision", "16"), "--precision must be one of 32-true, bf16-mixed, got '16'"),
        (("train", "--device", "tpu"), "--device must be one of auto, cpu, cuda, got 'tpu'"),
        (("evaluate", "nowhere"), "nowhere is not a run folder"),
        (("evaluate", "nowhere", "--device", "gpu"), "--device must be one of auto, cpu, cuda, got 'gpu'"),
    ],
)
def test_mistakes_get_one_clear_line_and_leave_nothing_behind(tmp_path, arguments, message):
    assert_one_clear_line(call(*arguments), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("elbo", "--model", "general-vae", "--posterior", "flow"), "GeneralVAE has none; take --no-analytic-kl"),
        (
            ("elbo", "--model", "hierarchical"),
            "ELBO with --analytic-kl: needs a model with the methods encode and log_likelihood; HierarchicalVAE lacks "
            "encode and log_likelihood; take --no-analytic-kl",
        ),
        (
            ("elbo", "--model", "hamiltonian", "--no-analytic-kl", "--warm-up-steps", "9"),
            "got beta=1.0 and --warm-up-steps=9",
        ),
        (
            ("elbo", "--model", "general-vae", "--posterior", "full", "--free-bits", "1"),
            "--free-bits=1.0 needs independent latent variables, and in the posterior of GeneralVAE they are not",
        ),
        (("iwae", "--model", "hamiltonian", "--backward-samples", "1"), "IWAE with --backward-samples: needs the sam"),
        (("vimco", "--model", "hierarchical"), "VIMCO: needs the score of the samples, and those of HierarchicalVAE"),
        (("score-function", "--model", "hamiltonian"), "ScoreFunction: needs the score of the samples, and those of"),
        (("reweighted-wake-sleep", "--model", "hierarchical"), "its draw has no log_posterior"),
        (
            ("score-function", "--baseline", "control-variate", "--model", "general-vae", "--posterior", "flow"),
            "ScoreFunction with baseline='control-variate': needs the posterior's mean, and that of GeneralVAE has",
        ),
        (("reweighted-wake-sleep", "--sleep-phi"), "ReweightedWakeSleep with --sleep-phi: needs a model with the me"),
    ],
)
def test_what_an_objective_lacks_in_a_model_is_told_in_flags(arguments, message, tmp_path):
    assert_one_clear_line(call("train", "--objective", *arguments), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "obstacle", "processes", "expected"),
    [
        ("auto", None, 1, "cuda"),
        ("auto", None, 2, "cpu"),
        ("auto", "there is no GPU", 1, "cpu"),
        ("cpu", None, 1, "cpu"),
        ("cuda", None, 1, "cuda"),
        ("cuda", None, 2, "Error: --device cuda: 2 processes need a GPU each, this machine has 1"),
        ("cuda", "there is no GPU", 1, "Error: --device cuda: there is no GPU"),
    ],
)
def test_device_is_chosen_by_what_stands_in_its_way(monkeypatch, capsys, wanted, obstacle, processes, expected):
    monkeypatch.setattr(_backends, "cuda_obstacle", lambda: obstacle)
    monkeypatch.setattr(training_processes, "layout", lambda: (processes, 1))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if not expected.startswith("Error"):
        assert choose_device(wanted) == expected
        return
    with pytest.raises(typer.Exit) as ended:
        choose_device(wanted)
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.strip() == expected


@pytest.mark.cuda
def test_training_and_evaluating_on_a_gpu():
    for device in ("cuda", "auto", "cpu"):
        result = call("train", *SMALL, *SHORT_EVALUATION, "--out", "run", "--overwrite", "--device", device)
        assert result.exit_code == 0, result.output
    elbo = json.loads(Path("run/evaluation.json").read_text())["elbo"]
    assert call("evaluate", "run", "--num-samples", 50, "--limit", 20, "--device", "cuda").exit_code == 0
    assert json.loads(Path("run/evaluation.json").read_text())["elbo"] == pytest.approx(elbo, rel=1e-3)


def test_values_out_of_range_are_refused_by_the_parser():
    result = call("train", "--epochs", "0")
    assert result.exit_code == 2
    assert "--epochs" in result.stderr
    assert "Traceback" not in result.output


def test_a_run_without_a_checkpoint_cannot_be_evaluated():
    assert call("train", *SMALL, "--no-evaluate", "--out", "run").exit_code == 0
    RunFolder(Path("run")).checkpoint_file.unlink()
    assert_one_clear_line(call("evaluate", "run"), "has no checkpoint yet")


def test_grey_data_from_a_folder_are_binarised_unless_told_otherwise(tmp_path):
    write_image_files(tmp_path / "data", train_count=50, test_count=30)
    for options, binarization in (((), "dynamic"), (("--likelihood", "gaussian"), "none")):
        arguments = ("--data", "mnist", "--data-dir", "data", "--out", f"run-{binarization}", *options)
        result = call("train", *SMALL, *SHORT_EVALUATION, *arguments)
        assert result.exit_code == 0, result.output
        assert RunFolder(Path(f"run-{binarization}")).read_config().binarization == binarization
    assert call("evaluate", "run-none", "--data-dir", "data", "--num-samples", 20).exit_code == 0


def test_missing_extra_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "lightning" else real(name))
    assert_one_clear_line(
        call("train"), 'fastvi train needs PyTorch Lightning, which is not installed: pip install "fastvi[train]"'
    )


def interrupt_after(monkeypatch, step_to_interrupt):
    step = VariationalModule.training_step

    def interrupted(self, batch, batch_index):
        step(self, batch, batch_index)
        if batch.step == step_to_interrupt:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(VariationalModule, "training_step", interrupted)


def last_line(result):
    assert result.exit_code == 130, result.output
    assert "Traceback" not in result.output
    return result.output.splitlines()[-1]


def test_control_c_says_how_to_go_on(monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        result = call("train", *SMALL, "--no-evaluate", "--out", "run")
    assert last_line(result) == "interrupted; to go on: fastvi train --resume run --no-evaluate"
    assert signal.getsignal(signal.SIGINT) is handler
    assert RunFolder(Path("run")).trained_epochs() == 1
    assert call("train", "--resume", "run", "--no-evaluate").exit_code == 0
    assert call("train", *SMALL, "--no-evaluate", "--out", "whole").exit_code == 0
    first, second = (RunFolder(Path(name)).read_checkpoint()["state_dict"] for name in ("run", "whole"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_control_c_before_the_first_checkpoint_says_so(monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        line = last_line(call("train", *SMALL, "--out", "run"))
    start, _, command = line.partition("fastvi ")
    assert start == "interrupted before the first checkpoint; to start again: "
    assert call(*shlex.split(command), "--no-evaluate").exit_code == 0
    assert RunFolder(Path("run")).trained_epochs() == 2


@pytest.mark.parametrize("folder", ["a b", "it's $HOME", "lr[a=0.1]", "[/b]", "ümlaut", "x" * 120, "-dash"])
def test_the_line_after_control_c_works_when_it_is_pasted(monkeypatch, folder):
    """Whatever the path, with the command's other options, and with the data, whose folder the run remembers."""
    write_image_files(Path("the data"), train_count=1500, test_count=30)
    options = (
        "--device cpu --threads 1 --checkpoint-every 2 --evaluation-samples 20 --evaluation-limit 20 --no-progress"
    )
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        where = ("--data", "mnist", "--data-dir", "the data", f"--out={folder}")
        line = last_line(call("train", *SMALL, *options.split(), *where))
    prefix, command = line.split("fastvi ", 1)
    assert prefix == "interrupted; to go on: "
    words = printed_by(["sh", "-c", f"printf '%s\\n' {command}"]).splitlines()
    assert words[:2] == ["train", "--resume"]
    assert words[3:] == options.split()
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert (Path(folder) / "evaluation.json").exists()


def test_the_line_after_control_c_names_the_data_where_the_environment_would_mislead(monkeypatch):
    write_image_files(Path("data"), train_count=1500, test_count=30)
    monkeypatch.setenv("FASTVI_DATA", "elsewhere")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        result = call("train", *SMALL, "--data", "mnist", "--data-dir", "data", "--no-evaluate", "--out", "run")
    assert last_line(result) == "interrupted; to go on: fastvi train --resume run --data-dir data --no-evaluate"
    assert call("train", "--resume", "run", "--data-dir", "data", "--no-evaluate").exit_code == 0


@pytest.mark.parametrize(
    ("processes", "machines", "program", "expected"),
    [
        (1, 1, "/venv/bin/fastvi", "fastvi train --resume run"),
        (1, 1, "/lib/fastvi/__main__.py", "python -m fastvi train --resume run"),
        (1, 1, "mine/renyi.py", "python mine/renyi.py train --resume run"),
        (2, 1, "mine/renyi.py", "torchrun --standalone --nproc-per-node 2 mine/renyi.py train --resume run"),
        (2, 1, "/lib/fastvi/__main__.py", "torchrun --standalone --nproc-per-node 2 -m fastvi train --resume run"),
        (
            2,
            3,
            "/lib/fastvi/__main__.py",
            "torchrun --nnodes 3 --rdzv-backend c10d --rdzv-endpoint host:29400 --nproc-per-node 2 "
            "-m fastvi train --resume run",
        ),
    ],
)
def test_the_line_after_control_c_begins_as_the_command_did(monkeypatch, processes, machines, program, expected):
    monkeypatch.setattr(hints, "layout", lambda: (processes, machines))
    monkeypatch.setattr(shutil, "which", lambda name: f"/venv/bin/{name}")
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setenv("MASTER_ADDR", "host")
    assert hints.resume_command(Path("run"), []) == expected


def test_a_program_that_the_shell_does_not_find_is_named_by_its_path(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["/a b/bin/fastvi"])
    assert hints.resume_command(Path("run"), []) == "'/a b/bin/fastvi' train --resume run"


def test_info_tells_what_is_in_use():
    result = call("info")
    assert result.exit_code == 0, result.output
    for text in ("fastvi", "instruction set", "backends", "cpu", "CUDA", "PyTorch finds", "threads", torch.__version__):
        assert text in result.output


def test_help_lists_the_commands_without_loading_them():
    script = (
        "import sys\n"
        "from fastvi.cli import app\n"
        "from typer.testing import CliRunner\n"
        "print(CliRunner().invoke(app, ['--help']).output)\n"
        "loaded = {'torch', 'lightning', 'matplotlib', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in ("train", "evaluate", "bench", "info"):
        assert command in result.stdout


def test_config_file_holds_every_setting():
    assert call("train", *SMALL, "--no-evaluate", "--out", "run", "--objective", "dreg", "--seed", "3").exit_code == 0
    config = RunFolder(Path("run")).read_config()
    written = json.loads(RunFolder(Path("run")).config_file.read_text())
    assert set(written) > {field.name for field in dataclasses.fields(config)}
    assert (config.objective, config.seed, config.model.likelihood, config.binarization) == (
        DReG(2),
        3,
        "bernoulli",
        "dynamic",
    )
