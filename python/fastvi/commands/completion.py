"""What the shell offers behind an option: data sets, objectives and models, as they are registered."""

from __future__ import annotations

from collections.abc import Iterable


def data_names(incomplete: str) -> list[str]:
    """Return the names of data sets that begin so, and files and folders, which data of one's own are."""
    from pathlib import Path

    from fastvi.data import DATASET_NAMES

    names = _beginning(DATASET_NAMES, incomplete)
    try:
        folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
        beginning = "" if incomplete.endswith("/") else Path(incomplete).name
        found = [path for path in folder.iterdir() if path.name.startswith(beginning) and path.name[0] != "."]
        names += sorted(f"{path}/" if path.is_dir() else str(path) for path in found)
    except (OSError, ValueError):  # a folder that is not there, or may not be read
        pass
    return names


def objective_names(incomplete: str) -> list[str]:
    """Return the names of objectives that begin so."""
    from fastvi.objectives import OBJECTIVES

    return _beginning(OBJECTIVES, incomplete)


def model_names(incomplete: str) -> list[str]:
    """Return the names of models that begin so."""
    from fastvi.models import MODELS

    return _beginning(MODELS, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
