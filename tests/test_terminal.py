"""What a user meets who gives strange values, places that take no file, or a terminal that lacks letters."""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.main import get_command

from fastvi import _files, _native, _terminal, data
from fastvi.benchmarks import harness
from fastvi.benchmarks.results import EAGER, FASTVI, Result, Timing
from fastvi.cli import app
from fastvi.training import figures, files, trainer
from fastvi.training.config import RunFolder, TrainingConfig
from support.command import SHORT_EVALUATION, call

pytestmark = pytest.mark.usefixtures("own_directory")

SMALL = ("--epochs", "1", "--hidden-dims", "8", "--latent-dim", "2", "--num-samples", "2", "--batch-size", "1500")
ONE_CASE = ("--case", "kl_normal 100x50", "--quick", "--no-compile", "--threads", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    result = call("train", *SMALL, *SHORT_EVALUATION, "--out", run)
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    for file in (path for path in trained.rglob("*") if path.is_file()):
        (copy / file.relative_to(trained)).write_bytes(file.read_bytes())
    return copy


@functools.cache
def digits() -> data.Dataset:
    return data.load_dataset("digits")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the work behind the commands, not what they do before and after it."""

    def untrained(config: TrainingConfig, *_: Any, **__: Any) -> torch.nn.Module:
        return config.build_model().eval()

    images = digits()
    timing = Timing(median=1e-6, best=1e-6, lower_quartile=1e-6, upper_quartile=1e-6, calls_per_block=1, peak_bytes=0)
    result = Result("normal", "[/b]", "forward", 1, 4000, 1e9, {EAGER: timing, FASTVI: timing})
    monkeypatch.setattr(trainer, "train", untrained)
    monkeypatch.setattr("fastvi.data.named._load_digits", lambda: images)
    monkeypatch.setattr(harness, "run", lambda *_, **__: [result])


def process(*arguments: str | bytes, stdout: Any = subprocess.PIPE, **environment: str) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of the command in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "fastvi", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )
    return finished.returncode, finished.stdout or b"", finished.stderr


def assert_one_error(result: Any, *expected: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try '"))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    for text in expected:
        assert text in lines[0]


HOSTILE = {
    "empty": "",
    "spaces": "  ",
    "letters": "größe",
    "no letters": "\udcff",
    "closing markup": "[/b]",
    "markup": "lr[red]=0.1:smile:",
    "escapes": "a\x1b[31m\nb",
    "NUL": "a\0b",
    "zero": "0",
    "negative": "-1",
    "beyond 64 bits": "9" * 30,
    "thousands of digits": "9" * 5000,
    "nan": "nan",
    "inf": "inf",
    "underflow": "1e-400",
    "overflow": "1e400",
    "list": "1,,2",
    "folder": "folder",
    "file": "file",
    "below a file": "file/below",
    "missing": "missing/folder/",
    "long": "x" * 300,
    "very long": "x/" * 3000,
}


def valued_options() -> Iterator[tuple[str, str]]:
    command = get_command(app)
    for name, subcommand in command.commands.items():  # type: ignore[attr-defined]  # a group
        for parameter in subcommand.params:
            if not getattr(parameter, "is_flag", False):
                yield name, (parameter.opts[0] if parameter.param_type_name == "option" else "")


@pytest.mark.usefixtures("no_work")
@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize(("command", "option"), list(valued_options()))
def test_no_value_of_any_option_is_a_traceback(
    command: str, option: str, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rest = {
        "train": ["--no-evaluate", *SMALL, *(["--data", "mnist"] if option == "--data-dir" else [])],
        "evaluate": [trained, "--num-samples", "3", "--limit", "20", "--no-save"] if option else [],
        "bench": ["--threads", "1"],
    }
    few = {"sample": ["-n", "3"], "encode": ["--limit", "5"], "reconstruct": ["--limit", "5"], "export": []}
    few["score"] = ["--limit", "5", "--num-samples", "3"]
    for name, options in few.items():
        rest[name] = [*([trained] if option else []), *options, "--out", "out"]
    for name, value in HOSTILE.items():
        (tmp_path / name / "folder").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        Path("file").write_text("text")
        result = call(command, *rest[command], *([option] if option else []), value)
        if result.exit_code != 0:
            assert_one_error(result)
            assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "--epochs", "9" * 23), "'--epochs': got '99999999999999999999999', expected a whole number from 1"),
        (("train", "--seed", str(2**63)), f"'--seed': got '{2**63}', expected a whole number from 0 to {2**63 - 1}"),
        (("train", "--seed", "-1"), "'--seed': got '-1', expected a whole number from 0"),
        (("train", "--learning-rate", "nan"), "'--learning-rate': got 'nan', expected a finite number"),
        (("train", "--beta", "inf", "--objective", "elbo"), "'--beta': got 'inf', expected a finite number"),
        (("train", "--beta", "4e38"), "'--beta': got '4e38', expected a finite number, 0 or more, that float32 holds"),
        (("train", "--free-bits", "-1"), "'--free-bits': got '-1', expected a finite number, 0 or more"),
        (("train", "--hidden-dims", "999999999999"), "--hidden-dims must be widths from 1 to 2147483647"),
        (("train", "--hidden-dims", "2147483647,2147483647"), "this machine has"),
        (("train", "--latent-dim", "2147483647"), "--latent-dim"),
        (("train", "--num-samples", "2147483647"), "--num-samples and --batch-size need at least"),
        (
            ("train", "--objective", "miwae", "--num-bounds", "2147483647"),
            "--num-bounds, --num-samples and --batch-size need at least",
        ),
        (("train", "--activation", "num_samples"), "--activation must be one of tanh, relu"),
        (("train", "--likelihood", "seed"), "zero-inflated-negative-binomial, got 'seed'"),
        (("train", "--backward-samples", "9"), "--backward-samples must be at most --num-samples = 5, got 9"),
        (
            ("train", "--backward-samples", "1", "--objective", "dreg"),
            "--backward-samples belongs to the objective iwae",
        ),
        (("train", "--threads", "100000"), "'--threads': got '100000', expected a whole number from 1 to"),
        (("evaluate", "nowhere", "--threads", "100000"), "'--threads': got '100000', expected"),
        (("bench", "--threads", "1,100000"), "got '1,100000', expected positive numbers up to"),
        (("train", "--out", ""), "'--out': got '', expected a path"),
        (("train", "--out", "x" * 300), "File name too long"),
        (("evaluate", ""), "got '', expected a path"),
        (("evaluate", "[/b]"), "[/b] is not a run folder"),
    ],
)
def test_what_came_and_what_was_expected_is_said(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    assert_one_error(call(*arguments), expected)
    assert list(tmp_path.iterdir()) == []


def test_as_many_threads_as_are_sensible_are_taken() -> None:
    assert 4 * (os.cpu_count() or 1) <= _terminal.MAX_THREADS
    assert_one_error(call("bench", "--threads", str(_terminal.MAX_THREADS + 1)))
    assert_one_error(call("bench", "--threads", str(_terminal.MAX_THREADS), "--case", "none of this name"), "no case")


def test_version_is_told_without_torch() -> None:
    script = (
        "import sys; from fastvi.cli import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    finished = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"fastvi {importlib.metadata.version('fastvi')}\n"


@pytest.mark.parametrize("arguments", [("info",), ("train",), ("evaluate", "nowhere"), ("bench",)])
def test_an_unknown_instruction_set_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, output, errors = process(*arguments, FASTVI_ISA="bogus")
    assert (code, output) == (2, b"")
    (line,) = errors.decode().splitlines()
    assert line.startswith("Error: FASTVI_ISA: got 'bogus', expected one of")
    assert all(isa in line for isa in _native.available_isas())
    assert list(tmp_path.iterdir()) == []


def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVI_ISA", "v4")
    monkeypatch.setattr(_native, "available_isas", lambda: ["v3", "v2"])
    for wrong in (ValueError, ImportError):  # a bad value, and no kernels for those who import
        with pytest.raises(wrong, match=r"FASTVI_ISA: got 'v4', expected one of \['v3', 'v2'\]"):
            _native.selected_isa.__wrapped__()


@pytest.mark.parametrize("name", ["lr[a=0.1]", "[/b]", "[red]x[", ":smile:", "größe"])
@pytest.mark.usefixtures("no_work")
def test_paths_are_shown_as_they_are(name: str) -> None:
    result = call("train", *SMALL, "--no-evaluate", "--out", f"runs/{name}")
    assert result.exit_code == 0, result.output
    assert f"run folder: runs/{name}\n" in result.output
    assert RunFolder(Path("runs") / name).config_file.exists()


def test_a_terminal_without_umlauts_gets_escapes() -> None:
    name = "größe[a=0.1]"
    code, output, errors = process("train", *SMALL, *SHORT_EVALUATION, "--out", name, PYTHONIOENCODING="ascii")
    assert (code, errors) == (0, b"")
    assert r"run folder: gr\xf6\xdfe[a=0.1]" in output.decode("ascii")
    assert RunFolder(Path(name)).evaluation_file.exists()
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, output, errors = process("evaluate", name, "--num-samples", "20", **environment)
    assert (code, errors) == (0, b"")
    assert (Path(name) / "evaluation-K20-images297.json").exists()


def test_a_name_that_is_not_utf_8() -> None:
    code, output, errors = process("train", *SMALL, *SHORT_EVALUATION, "--out", b"runs/\xff")
    assert (code, errors) == (0, b"")
    assert rb"run folder: runs/\udcff" in output
    assert os.path.exists(b"runs/\xff/evaluation.json")  # noqa: PTH110  # a pathlib.Path takes no bytes
    code, output, errors = process("evaluate", b"\xfe")
    assert (code, output) == (2, b"")
    assert errors.startswith(rb"Error: \udcfe is not a run folder")


def test_a_reader_who_goes_away_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        _, _, errors = process("info", stdout=closed)
    assert errors == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the disk that is always full is Linux's")
def test_figures_are_in_their_file_where_the_output_takes_none(run: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, errors = process("evaluate", str(run), "--num-samples", "20", stdout=full)
    assert code == 2
    assert errors.decode() == "Error: the output cannot be written: No space left on device\n"
    assert json.loads((run / "evaluation-K20-images297.json").read_text())["num_samples"] == 20
    with Path("/dev/full").open("wb") as full:
        assert process("info", stdout=full)[::2] == (code, errors)


def test_no_backend_of_matplotlib_is_needed() -> None:
    arguments = ("train", *SMALL, *SHORT_EVALUATION, "--out", "run")
    code, output, errors = process(*arguments, MPLBACKEND="module://not_installed.backend")
    assert (code, errors) == (0, b"")
    code, output, errors = process(*arguments, "--overwrite", MPLBACKEND="bogus")
    assert (code, errors) == (0, b"")
    assert b"test L_50" in output
    assert Path("run/samples.png").read_bytes().startswith(b"\x89PNG")
    code, output, errors = process("bench", *ONE_CASE, "--plot", "ratios.png", MPLBACKEND="bogus")
    assert code == 0, errors
    assert Path("ratios.png").read_bytes().startswith(b"\x89PNG")


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_evaluation_follows_pictures_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "save", refuse)
    result = call("train", *SMALL, *SHORT_EVALUATION, "--out", "run")
    assert_one_error(result, "not all pictures were written: run/", ".png: No space left on device")
    assert "test L_50" in result.stdout
    assert RunFolder(Path("run")).evaluation_file.exists()


def test_figures_are_shown_where_their_file_cannot_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "evaluation.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "fsync", refuse)
        result = call("evaluate", run, "--num-samples", 50, "--limit", 20)
    assert_one_error(result, "run/evaluation.json: No space left on device")
    assert "effective sample size" in result.stdout
    assert (run / "evaluation.json").read_bytes() == before
    assert not list(run.glob(".*.partial"))
    monkeypatch.setattr(figures, "write_whole", refuse_at)
    result = call("train", *SMALL, *SHORT_EVALUATION, "--out", "new")
    assert_one_error(result, "new/evaluation.json: Read-only file system")
    assert "effective sample size" in result.stdout


def refuse_at(path: Path, _content: bytes = b"") -> Any:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_checkpoint_that_the_disk_refuses_is_one_line() -> None:
    """PyTorch hides the refusal behind an error of its own about positions in the file."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); "
    script = limited + "from fastvi.cli import main; main()"
    command = [sys.executable, "-c", script, "train", *SMALL, "--hidden-dims", "400", "--out", "run"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr == "Error: run/checkpoints/last.ckpt cannot be written: File too large\n"
    assert list(Path("run/checkpoints").iterdir()) == []


def test_what_cannot_be_written_is_found_out_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvi.evaluate.evaluate", lambda *_, **__: pytest.fail("the work was done"))
    (run / "evaluation.json").unlink()
    (run / "evaluation.json").mkdir()
    (run / "evaluation-K7-images297.json").mkdir()
    expected = ("evaluation-K7-images297.json: Is a directory", "--no-save only shows them")
    assert_one_error(call("evaluate", run, "--num-samples", 7), *expected)
    monkeypatch.setattr(_files, "atomic_write", refuse_at)
    expected = ("evaluation-K8-images297.json: Read-only file system", "--no-save")
    assert_one_error(call("evaluate", run, "--num-samples", 8), *expected)


def test_figures_can_be_shown_alone(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = call("evaluate", run, "--num-samples", 20, "--no-save")
    assert result.exit_code == 0, result.output
    assert "test L_20" in result.output
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_figures_of_another_kind_are_not_overwritten(run: Path) -> None:
    def kept(name: str) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads((run / name).read_text())
        return figures

    first = kept("evaluation.json")
    assert call("evaluate", run, "--num-samples", 30, "--limit", 20).exit_code == 0
    assert call("evaluate", run, "--num-samples", 30).exit_code == 0
    assert call("evaluate", run, "--num-samples", 50).exit_code == 0
    assert kept("evaluation.json") == first
    for num_samples, images in ((30, 20), (30, 297), (50, 297)):
        written = kept(f"evaluation-K{num_samples}-images{images}.json")
        assert (written["num_samples"], written["images"]) == (num_samples, images)
    result = call("evaluate", run, "--num-samples", 50, "--limit", 20)  # those of training's end
    assert f"figures: {run / 'evaluation.json'}" in result.output
    assert kept("evaluation.json") | {"seconds": 0.0} == first | {"seconds": 0.0}


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"num_samples": 50', b"\xff", None])
def test_damaged_figures_are_left_alone(run: Path, content: bytes | None) -> None:
    (run / "evaluation.json").unlink()
    if content is not None:
        (run / "evaluation.json").write_bytes(content)
    result = call("evaluate", run, "--num-samples", 20)
    assert result.exit_code == 0, result.output
    if content is None:  # the first figures
        assert json.loads((run / "evaluation.json").read_text())["num_samples"] == 20
    else:
        assert (run / "evaluation.json").read_bytes() == content
        assert json.loads((run / "evaluation-K20-images297.json").read_text())["num_samples"] == 20


@pytest.mark.parametrize("num_samples", [5000, 1])
@pytest.mark.parametrize("reliable", [True, False])
def test_a_bound_of_a_few_samples_is_marked(reliable: bool, num_samples: int, trained: Path) -> None:
    from fastvi.evaluate import Evaluation

    values: dict[str, Any] = {field.name: 1 for field in dataclasses.fields(Evaluation)}
    values |= {"num_samples": num_samples, "standard_error": None, "active_units": None, "reliable": reliable}
    values["figures"] = {"error": 12.5}
    screen = io.StringIO()
    console = _terminal.make_console(file=screen, soft_wrap=True)
    result = Evaluation(**values)
    figures.print_figures(result, RunFolder(trained).read_config(), console)
    assert ("unreliable" in screen.getvalue()) != reliable
    for text in ("no standard error from one image", "not told by one image", "12.50 %"):
        assert text in screen.getvalue()
    note = figures.reliability_note(result)
    assert (note is None) == reliable
    if note:
        assert screen.getvalue().endswith(f"{note}\n")
        assert note.startswith(f"L_{num_samples} is unreliable as log p(x): for 1 of 1 images")


def test_figures_that_are_a_device_or_a_pipe_are_left_alone(run: Path) -> None:
    """To read them might never end."""
    file = run / "evaluation.json"
    file.unlink(missing_ok=True)
    for make in (lambda: file.symlink_to("/dev/zero"), lambda: os.mkfifo(file)):
        make()
        result = call("evaluate", run, "--limit", "3", "--num-samples", 7)
        assert result.exit_code == 0, result.output
        assert json.loads((run / "evaluation-K7-images3.json").read_text())["images"] == 3
        file.unlink()


def test_a_run_is_evaluated_on_one_image(run: Path) -> None:
    result = call("evaluate", run, "--limit", "1", "--num-samples", 7)
    assert result.exit_code == 0, result.output
    figures_of_one = json.loads((run / "evaluation-K7-images1.json").read_text())
    assert (figures_of_one["images"], figures_of_one["standard_error"], figures_of_one["active_units"]) == (
        1,
        None,
        None,
    )


def test_memory_that_is_refused_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvi.evaluate.evaluate", lambda *_, **__: torch.empty(2**60))  # no machine addresses as much
    assert_one_error(call("evaluate", run, "--no-save"), f"not enough memory for {2**62} bytes: choose smaller sizes")
    monkeypatch.setattr("fastvi.evaluate.evaluate", lambda *_, **__: bytearray(2**62))
    assert_one_error(call("evaluate", run, "--no-save"), "not enough memory: choose smaller sizes")


def test_another_failure_is_no_lack_of_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvi.evaluate.evaluate", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    result = call("evaluate", run, "--no-save")
    assert isinstance(result.exception, RuntimeError)
    assert "size" in str(result.exception)


def test_names_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        _terminal.fail("try a smaller `learning_rate`, or name `data_dir`, not seed or runs/num_samples")
    expected = "Error: try a smaller --learning-rate, or name --data-dir, not seed or runs/num_samples\n"
    assert capsys.readouterr().err == expected


@pytest.mark.usefixtures("no_work")
def test_a_benchmark_is_shown_and_what_can_be_written_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").mkdir()
    assert_one_error(call("bench", "--json", "taken"), "--json: taken: Is a directory")
    assert_one_error(call("bench", "--plot", "taken/below/x.png"), "--plot: ", "No such file or directory")
    assert_one_error(call("bench", "--plot", "x.docx"), "--plot x.docx: matplotlib cannot draw it", "'docx'")
    assert sorted(Path().iterdir()) == [Path("taken")]
    if Path("/dev/full").exists():
        result = call("bench", "--json", "/dev/full", "--plot", "ratios.svg")
        assert_one_error(result, "/dev/full: No space left on device")
        assert "copy bandwidth" in result.stdout
        assert "<svg" in Path("ratios.svg").read_text()
        assert Path("/dev/full").is_char_device()


def test_a_terminal_of_no_width_gets_the_table_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert "instruction set" in call("info").stdout


def test_a_file_at_the_end_of_a_link_is_the_one_that_is_written(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("target")
    files.check_writable(link)
    assert not link.exists()
    files.write_whole(link, b"content")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"
