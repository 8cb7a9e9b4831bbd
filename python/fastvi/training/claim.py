"""Where a new run goes: which folders are runs, which files in them are fastvi's own, and what is in the way.

Only files that fastvi itself writes are ever deleted; whatever else lies in a folder is named, and nothing is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastvi.training.config import RunFolder, TrainingConfig, config_bytes, is_config
from fastvi.training.data_record import DataRecord
from fastvi.training.errors import RunError, reason
from fastvi.training.files import PARTIAL_NAME, atomic_write, remove_stale_partials
from fastvi.training.lock import LOCK_NAME, holder, locked

OWN_FILES = {
    "": re.compile(
        r"config\.json|(metrics|divergence)\.csv|evaluation((-K[0-9]+)?-images[0-9]+)?\.json|"
        r"(reconstructions|denoised|filters|trajectories|samples|manifold|styles|analogies)\.png|"
        + re.escape(LOCK_NAME)
    ),
    "checkpoints": re.compile(r"(last|best)\.ckpt"),
    "tensorboard": re.compile(r"events\.out\.tfevents\..*|hparams\.yaml"),
}
"""Every file that fastvi writes into a run folder, by the folder in it; what is being written has a name of its own."""
_MOST_NAMES = 3


@dataclass
class Survey:
    """What lies in a folder.

    Attributes
    ----------
    own, own_folders
        Files that fastvi may have written, by their names, and the folders below that hold them.
    foreign
        Everything else: other names, and links, which fastvi never makes.
    """

    own: list[Path] = field(default_factory=list)
    own_folders: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but what a run that was stopped before its first file may leave."""
        return not self.foreign and all(path.name == LOCK_NAME or _is_partial(path.name) for path in self.own)


def survey(folder: Path) -> Survey:
    """Return what lies in ``folder``, without following links.

    Raises
    ------
    OSError
        If it, or a folder in it, cannot be read.
    """
    found = Survey()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.name in OWN_FILES and entry.is_dir(follow_symlinks=False):
            found.own_folders.append(path)
            for inner in sorted(os.scandir(path), key=lambda inner: inner.name):
                _sort_in(found, inner, path / inner.name, OWN_FILES[entry.name])
        else:
            _sort_in(found, entry, path, OWN_FILES[""])
    return found


@contextlib.contextmanager
def claimed(
    out: Path | None,
    overwrite: bool,
    config: TrainingConfig,
    record: DataRecord | None,
    tell: Callable[[str], None],
) -> Iterator[RunFolder]:
    """Give a folder with the settings of a new run in it, which no other process writes within the block.

    Parameters
    ----------
    out
        The folder; None makes the next of runs/DATA-OBJECTIVE-NUMBER.
    overwrite
        Delete the run that ``out`` holds.
    config, record
        What is written there.
    tell
        See `fastvi.training.lock.locked`.

    Raises
    ------
    RunError
        If something is in the way, which the message names, or the folder cannot be written. Nothing was deleted.
    """
    with contextlib.ExitStack() as stack:
        try:
            path, is_new = (_numbered(config), True) if out is None else _chosen(out, overwrite)
            folder = RunFolder(path)
            with _undone_on_failure([path] if is_new else []) as made:
                stack.enter_context(locked(path, tell))
                _chosen(path, overwrite)  # as it is now that no other process changes it
                if is_new:
                    made += [path / LOCK_NAME, folder.checkpoint_file.parent]
                remove_stale_partials(path, OWN_FILES[""])
                folder.make()
                with atomic_write(folder.config_file) as file:
                    file.write(config_bytes(config, record))
                    file.flush()
                    os.fsync(file.fileno())  # a full disk shows before anything is deleted
                    _delete_run(path)
        except OSError as error:
            raise RunError(f"{_place(error, out or Path('runs'))} cannot be used: {reason(error)}") from error
        yield folder


@contextlib.contextmanager
def reopened(folder: RunFolder, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from writing a run that goes on.

    Raises
    ------
    RunError
        If it is not a run, another process writes it, or it cannot be written.
    """
    folder.read_config()
    with locked(folder.path, tell):
        try:
            remove_stale_partials(folder.path, OWN_FILES[""])
            if (checkpoints := folder.checkpoint_file.parent).is_dir():
                _check_writable(checkpoints)  # now, not after an epoch's work
                remove_stale_partials(checkpoints, OWN_FILES[checkpoints.name])
        except OSError as error:
            raise RunError(f"{_place(error, folder.path)} cannot be used: {reason(error)}") from error
        yield


def _numbered(config: TrainingConfig) -> Path:
    """Make the next free folder; of processes that want the same number, the kernel lets one make it."""
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    for number in itertools.count(1):
        path = runs / f"{config.data}-{config.objective_name}-{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("numbers do not end")


def _chosen(out: Path, overwrite: bool) -> tuple[Path, bool]:
    """Return ``out`` and whether it was made just now; RunError where something is in the way."""
    if not out.exists():
        if out.is_symlink():
            raise RunError(f"{out} is a symbolic link to nothing: choose another --out")
        with contextlib.suppress(FileExistsError):  # another process was faster
            out.mkdir(parents=True)
            return out, True
    if not out.is_dir():
        raise RunError(f"{out} exists and is no run folder, but a file: choose another --out")
    found = survey(out)
    if found.is_empty:
        return out, False
    config_file = RunFolder(out).config_file
    if not (config_file in found.own and is_config(config_file.read_bytes())):
        what = "its config.json is not one of fastvi" if config_file.exists() else f"it holds {_names(found, out)}"
        raise RunError(f"{out} exists and is no run folder ({what}): choose another --out")
    if not overwrite:
        if (other := holder(out)) is not None:
            raise RunError(f"{out} is in use by {other}: choose another --out")
        raise RunError(f"{out} holds a run: go on with --resume {out}, or add --overwrite to delete it")
    if out.is_symlink():
        raise RunError(f"{out} is a symbolic link to the run {out.resolve()}: to overwrite that, name it itself")
    if found.foreign:
        raise RunError(
            f"{out} holds {_names(found, out)} besides its run: nothing was deleted; "
            "move that elsewhere, or choose another --out"
        )
    return out, False


def _delete_run(path: Path) -> None:
    """Delete every file of a run but the lock and what is being written, and the folders that are empty then."""
    found = survey(path)
    for folder in found.own_folders:
        _check_writable(folder)
    for file in found.own:
        if file.name != LOCK_NAME and not (file.parent == path and _is_partial(file.name)):
            file.unlink()
    for folder in found.own_folders:
        if folder.name != "checkpoints":
            folder.rmdir()


@contextlib.contextmanager
def _undone_on_failure(made: list[Path]) -> Iterator[list[Path]]:
    """Take away again what the block lists as made, the last first, where a run cannot begin in it."""
    try:
        yield made
    except (RunError, OSError, KeyboardInterrupt):
        for path in reversed(made):
            with contextlib.suppress(OSError):  # not there yet, or no longer empty: another process has taken it
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
        raise


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _place(error: OSError, otherwise: Path) -> str:
    """Return what the operating system refused, by a name that the user knows."""
    name = error.filename
    return name if isinstance(name, str) and not _is_partial(Path(name).name) else str(otherwise)


def _sort_in(found: Survey, entry: os.DirEntry[str], path: Path, own: re.Pattern[str]) -> None:
    partial = PARTIAL_NAME.fullmatch(entry.name)
    name = partial["name"] if partial else entry.name
    is_own = own.fullmatch(name) is not None and entry.is_file(follow_symlinks=False)
    (found.own if is_own else found.foreign).append(path)


def _is_partial(name: str) -> bool:
    return PARTIAL_NAME.fullmatch(name) is not None


def _names(found: Survey, folder: Path) -> str:
    paths = [path.relative_to(folder) for path in found.foreign or found.own]
    names = ", ".join(str(path) for path in paths[:_MOST_NAMES])
    more = len(paths) - _MOST_NAMES
    return names if more <= 0 else f"{names} and {more} more"
