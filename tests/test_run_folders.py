"""Run folders: what is fastvi's own is known and nothing else is ever deleted; one process at a time writes there."""

import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastvi.data import load_dataset
from fastvi.models import VAEOptions
from fastvi.training import claim
from fastvi.training.claim import claimed
from fastvi.training.config import RunFolder
from fastvi.training.data_record import DataRecord
from fastvi.training.files import atomic_write
from fastvi.training.lock import locked
from support.command import SMALL, assert_one_clear_line, call
from support.runs import CONFIG, as_made_by_the_first_version

TRAIN = ("train", *SMALL, "--no-evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert call(*TRAIN, "--out", folder).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("FASTVI_DATA", raising=False)


@pytest.fixture
def run(finished):
    shutil.copytree(finished, "run")
    return Path("run")


def contents(folder):
    """Every file below a folder with its bytes, but for the lock, which every process writes; of a link, its target."""
    return {
        str(path): path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
        if path.name != ".lock"
    }


# What may be overwritten


@pytest.mark.parametrize(
    "config",
    [
        b'{"name": "app", "version": 3}',
        b'{"data": "digits", "seed": 0}',
        b"[]",
        b"null",
        b"3",
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=["other", "few-keys", "list", "null", "number", "empty", "cut", "not-utf8", "deep"],
)
def test_another_programs_config_does_not_make_a_run(config):
    folder = Path("app")
    (folder / "sources").mkdir(parents=True)
    (folder / "config.json").write_bytes(config)
    (folder / "sources" / "main.c").write_text("int main() {}")
    before = contents(".")
    for options in ((), ("--overwrite",)):
        assert_one_clear_line(call(*TRAIN, "--out", "app", *options), "app exists and is no run folder")
    assert contents(".") == before
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".hidden",
        "evaluation-mine.json",
        "metrics.csv.old",
        "checkpoints/epoch-3.ckpt",
        "tensorboard/other/events.out.tfevents.1",
        "plots/a.png",
        "config.json.partial",
    ],
)
def test_what_else_lies_in_a_run_folder_is_named_and_nothing_is_deleted(run, name):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("precious")
    before = contents(".")
    top = Path(name).parts[0]
    shown = name if top == "checkpoints" else "tensorboard/other" if top == "tensorboard" else top
    assert_one_clear_line(call(*TRAIN, "--out", "run", "--overwrite"), f"run holds {shown} besides its run")
    assert contents(".") == before


def test_links_in_a_run_folder_are_not_fastvis(run):
    """Such as checkpoints that the user keeps on a larger disk: behind a link everything may lie."""
    Path("elsewhere").mkdir()
    (run / "checkpoints").rename("elsewhere/checkpoints")
    (run / "checkpoints").symlink_to(Path("elsewhere/checkpoints").absolute())
    before = contents(".")
    assert_one_clear_line(call(*TRAIN, "--out", "run", "--overwrite"), "run holds checkpoints besides its run")
    assert contents(".") == before


@pytest.mark.parametrize("is_first_version", [False, True])
def test_a_run_is_overwritten_with_all_that_fastvi_left_there(run, is_first_version):
    if is_first_version:
        as_made_by_the_first_version(run)
    (run / "tensorboard").mkdir(exist_ok=True)
    own = ["evaluation.json", "evaluation-K50-images20.json", ".metrics.csv.partial", "tensorboard/hparams.yaml"]
    own += ["checkpoints/.last.ckpt.partial", ".config.json.0123456789abcdef.partial"]
    own += ["tensorboard/events.out.tfevents.1700000000.host.1.0"]
    for name in own:
        (run / name).write_text("old")
    assert call(*TRAIN, "--out", "run", "--overwrite", "--seed", 9).exit_code == 0
    assert [name for name in own if (run / name).exists() and (run / name).read_text() == "old"] == []
    assert RunFolder(run).read_config().seed == 9
    assert RunFolder(run).trained_epochs() == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--data", "mnist"),
        ("--data", "mnist", "--data-dir", "nowhere"),
        ("--objective", "elb"),
        ("--hidden-dims", "8,0"),
        ("--hidden-dims", "2000000000,2000000000"),
        ("--latent-dim", "2000000000"),
        ("--backward-samples", "9"),
        ("--device", "tpu"),
    ],
)
def test_nothing_is_deleted_before_all_is_known_to_work(run, options):
    before = contents(".")
    result = call(*TRAIN, "--out", "run", "--overwrite", *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert contents(".") == before


def test_a_full_disk_deletes_nothing(run, monkeypatch):
    before = contents(".")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = call(*TRAIN, "--out", "run", "--overwrite")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert contents(".") == before


def test_places_that_are_no_run_folders_get_one_clear_line(tmp_path, monkeypatch):
    Path("file").write_text("text")
    Path("link-to-nothing").symlink_to("nowhere")
    Path("below/inner").mkdir(parents=True)
    home = tmp_path / "home"
    (home / "documents").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    before = contents(tmp_path)
    for out, message in (
        (".", "exists and is no run folder"),
        ("..", "exists and is no run folder"),
        ("/", "exists and is no run folder"),
        (home, "exists and is no run folder"),
        ("below", "is no run folder (it holds inner)"),
        ("file", "file exists and is no run folder, but a file"),
        ("file/run", "file/run cannot be used: Not a directory"),
        ("link-to-nothing", "is a symbolic link to nothing"),
        ("x" * 300, "cannot be used: File name too long"),
        ("/proc/run", "/proc/run cannot be used"),
    ):
        for options in ((), ("--overwrite",)):
            assert_one_clear_line(call(*TRAIN, "--out", out, *options), message)
    assert contents(tmp_path) == before


def test_the_working_directory_may_hold_a_run(run, monkeypatch):
    monkeypatch.chdir(run)
    assert_one_clear_line(call(*TRAIN, "--out", "."), ". holds a run")
    assert call(*TRAIN, "--out", ".", "--overwrite", "--seed", 9).exit_code == 0
    assert RunFolder(Path()).read_config().seed == 9
    Path("thesis.tex").write_text("precious")
    before = contents(".")
    assert_one_clear_line(call(*TRAIN, "--out", ".", "--overwrite"), ". holds thesis.tex besides its run")
    assert contents(".") == before


def test_a_link_to_a_run_is_not_overwritten(run):
    Path("link").symlink_to("run")
    before = contents(".")
    assert_one_clear_line(call(*TRAIN, "--out", "link", "--overwrite"), "link is a symbolic link to the run")
    assert_one_clear_line(call(*TRAIN, "--out", "link"), "link holds a run")
    assert contents(".") == before
    assert call("train", "--resume", "link", "--epochs", 3, "--no-evaluate").exit_code == 0
    assert RunFolder(run).trained_epochs() == 3


def test_a_link_to_an_empty_folder_is_where_a_run_may_go():
    Path("disk").mkdir()
    Path("link").symlink_to("disk")
    assert call(*TRAIN, "--out", "link").exit_code == 0
    assert RunFolder(Path("disk")).trained_epochs() == 2


def test_a_folder_that_a_killed_process_had_just_begun_is_used():
    Path("run").mkdir()
    Path("run/.lock").touch()
    Path("run/.config.json.0123456789abcdef.partial").write_text("{")
    Path("run/checkpoints").mkdir()
    assert call(*TRAIN, "--out", "run").exit_code == 0
    assert sorted(path.name for path in Path("run").glob(".*")) == [".lock"]


# Numbers


def test_processes_that_start_together_get_folders_of_their_own():
    config = dataclasses.replace(CONFIG, model=VAEOptions(2, (4,)))
    record = DataRecord.of(load_dataset("digits"))

    def begin(_number):
        with claimed(None, False, config, record, print) as folder:
            time.sleep(0.05)
            return folder.path

    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(begin, range(32)))
    assert sorted(path.name for path in paths) == [f"digits-iwae-{number:03d}" for number in range(1, 33)]
    assert all(RunFolder(path).read_config() == config for path in paths)


def test_a_file_where_the_runs_go_gets_one_clear_line():
    Path("runs").write_text("")
    assert_one_clear_line(call(*TRAIN), "runs cannot be used: File exists")
    Path("runs").unlink()
    Path("runs").symlink_to("nowhere")
    assert_one_clear_line(call(*TRAIN), "runs cannot be used: File exists")


# Locks


@pytest.fixture
def other_process():
    """``other_process(code)`` starts one, and gives it back once it says that it is ready."""
    started = []

    def start(code):
        process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_told_who_writes_the_run(run, other_process):
    code = "import time; from pathlib import Path; from fastvi.training.lock import locked\n"
    code += "with locked(Path('run')):\n    print('ready')\n    time.sleep(600)"
    other = other_process(code)
    before = contents(".")
    message = f"run is in use by process {other.pid} on {os.uname().nodename} since 2"
    for arguments in (
        ("train", "--resume", "run", "--epochs", 3, "--no-evaluate"),
        (*TRAIN, "--out", "run"),
        (*TRAIN, "--out", "run", "--overwrite"),
    ):
        assert_one_clear_line(call(*arguments), message)
    assert contents(".") == before
    assert call("evaluate", "run", "--num-samples", 20).exit_code == 0
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0


def test_a_run_in_python_holds_the_lock_too(run, other_process):
    """`fastvi.training.trainer.train` itself, not only the command."""
    code = "import time, io\nfrom pathlib import Path\nfrom rich.console import Console\n"
    code += "from fastvi.data import load_dataset\nfrom fastvi.training.config import RunFolder\n"
    code += "from fastvi.training.module import VariationalModule\nfrom fastvi.training.trainer import train\n"
    code += "def step(*_):\n    print('ready')\n    time.sleep(600)\n"
    code += "VariationalModule.training_step = step\n"
    code += "folder = RunFolder(Path('new'))\nconfig = RunFolder(Path('run')).read_config()\n"
    code += "folder.write_config(config)\n"
    code += "train(config, load_dataset('digits'), folder, console=Console(file=io.StringIO()))"
    other = other_process(code)
    assert_one_clear_line(call("train", "--resume", "new"), f"new is in use by process {other.pid} on ")


def test_the_lock_may_be_taken_again_by_the_process_that_holds_it(tmp_path):
    with locked(tmp_path), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_and_used(monkeypatch):
    def no_locks(_file, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    result = call(*TRAIN, "--out", "run")
    assert result.exit_code == 0, result.output
    assert result.output.count("has no locks: nothing keeps a second process from writing there") >= 1
    assert RunFolder(Path("run")).trained_epochs() == 2


# Partial files


def test_many_writers_of_one_file_leave_one_whole_file():
    path = Path("file")

    def write(number):
        with atomic_write(path) as file:
            for _ in range(20):
                file.write(bytes([number]) * 1000)
                file.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    content = path.read_bytes()
    assert len(content) == 20_000
    assert len(set(content)) == 1
    assert list(Path().iterdir()) == [path]


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(run, other_process):
    code = "import time; from pathlib import Path; from fastvi.training.files import atomic_write\n"
    code += "with atomic_write(Path('run/NAME')) as file:\n    file.write(b'x' * 100000)\n    file.flush()\n"
    code += "    print('ready')\n    time.sleep(600)"
    dead = other_process(code.replace("NAME", "checkpoints/last.ckpt"))
    dead.kill()
    dead.wait()
    other_process(code.replace("NAME", "evaluation.json"))
    assert len(list(run.rglob(".*.partial"))) == 2
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0
    (left,) = run.rglob(".*.partial")
    assert left.name.startswith(".evaluation.json.")


def test_partial_files_of_other_programs_stay(run):
    names = ["notes.partial", ".partial", ".notes", ".film.mkv.partial", ".metrics.csv.partial.txt", "partial"]
    names += ["checkpoints/.config.json.partial"]
    for name in names:
        (run / name).write_text("precious")
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0
    assert {name: (run / name).read_text() for name in names} == dict.fromkeys(names, "precious")


def test_a_run_that_begins_in_the_same_folder_meanwhile_is_not_lost(finished, monkeypatch):
    """Another process makes, writes and finishes it between the look at the folder and the lock."""
    whole = claim.locked

    def late(path, tell):
        shutil.copytree(finished, path, dirs_exist_ok=True)
        return whole(path, tell)

    monkeypatch.setattr(claim, "locked", late)
    assert_one_clear_line(call(*TRAIN, "--out", "new"), "new holds a run: go on with --resume new")
    assert contents("new").keys() == {str(Path("new") / path.relative_to(finished)) for path in finished.rglob("[!.]*")}
    assert RunFolder(Path("new")).trained_epochs() == 2


def test_a_folder_of_checkpoints_that_cannot_be_written_shows_before_training(run, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "checkpoints" and access(path, mode))
    before = contents(".")
    for arguments in (("train", "--resume", "run", "--epochs", 3), (*TRAIN, "--out", "run", "--overwrite")):
        assert_one_clear_line(call(*arguments), "run/checkpoints cannot be used: Permission denied")
    assert contents(".") == before
