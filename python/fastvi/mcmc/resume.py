"""The file from which interrupted sampling goes on, to the bit as if it had not been interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvi._archive import archive_bytes
from fastvi._files import check_writable, write_whole
from fastvi.mcmc.samples import load_checked

_FORMAT = "fastvi checkpoint of chains 1"


class Checkpoint:
    """A file with the state of sampling.

    Parameters
    ----------
    path
        Where it is, or will be.
    device
        Where its tensors are wanted.

    Raises
    ------
    OSError
        If the file cannot be read or written.
    ValueError
        If there is another file.
    """

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.path = Path(path)
        check_writable(self.path)
        self.content: dict[str, Any] | None = None
        if self.path.exists():
            self.content = load_checked(self.path, _FORMAT, "checkpoint of sampling", device)

    def check(self, problem: dict[str, str], start: Tensor, log_density: Tensor) -> None:
        """Refuse to go on where the file belongs to another problem than the one at hand.

        Parameters
        ----------
        problem
            What must be as it was, in words, by name.
        start, log_density
            Where the chains start, (C, D), and the log densities there, (C,).

        Raises
        ------
        ValueError
            If something differs; the message says what.
        """
        if self.content is None:
            return
        before = self.content["problem"]
        for name, value in problem.items():
            if before.get(name) != value:
                raise self._other(f"its {name} is {before.get(name)}, here {value}")
        if not torch.equal(self.content["start"], start):
            raise self._other("its chains start elsewhere")
        tolerance = 1e-3 if start.dtype == torch.float32 else 1e-7
        known = self.content["log_density"]
        if not torch.allclose(known, log_density, rtol=tolerance, atol=tolerance):
            raise self._other(
                f"there the log density of the first chain at its start was {float(known[0]):.10g}, now it is "
                f"{float(log_density[0]):.10g}: the model or its data are others"
            )

    def _other(self, what: str) -> ValueError:
        return ValueError(
            f"sample: checkpoint {self.path} belongs to another problem: {what}; give another path, or delete the file"
        )

    def write(self, content: dict[str, Any]) -> None:
        """Put the state in the place of the file, whole at every instant.

        Raises
        ------
        OSError
            If it cannot be written; the older file is as it was.
        """
        write_whole(self.path, archive_bytes({"format": _FORMAT, **content}))
