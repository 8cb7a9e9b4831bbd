"""The autoencoder of sequences: its code moves slowly, and in straight lines, from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fastvi._options import check_factor, option
from fastvi._sizes import shown
from fastvi.autoencoders.base import Autoencoder, AutoencoderOptions
from fastvi.autoencoders.errors import ERRORS
from fastvi.autoencoders.sequences import WINDOW, linearisation_error, squared_step


class SlowAutoencoder(Autoencoder):
    r"""Autoencoder of three frames in a row whose loss has the linearisation error of their codes, and their steps.

    For the window :math:`(x_{t-1}, x_t, x_{t+1})` with the codes :math:`z = \Phi(x)` it is

    .. math:: \tfrac13 \sum_s \ell(x_s, \Psi(z_s)) + \lambda\, L(z) + \mu\, S(z),

    where L is `fastvi.autoencoders.linearisation_error`, the distance of :math:`z_t` to the mean of its neighbours
    relative to their distance, and S is `fastvi.autoencoders.squared_step`, the squared distance of neighbours. What
    keeps the code from being the same for all frames is the reconstruction. A smaller code has the same L. It has a
    smaller S, which a decoder of its own could make up for; with tied weights it cannot.

    Parameters
    ----------
    data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        See `Autoencoder`.
    linearisation
        :math:`\lambda`, in the unit of the error.
    slowness
        :math:`\mu`, in the unit of the error.

    Raises
    ------
    TypeError, ValueError
        See `Autoencoder`; and if a weight is no finite number of 0 or more, or x of a loss is not (B, 3, D).

    References
    ----------
    Goroshin, Mathieu & LeCun 2015, "Learning to linearize under uncertainty"; Goroshin, Bruna, Tompson, Eigen & LeCun
    2015, "Unsupervised learning of spatiotemporally coherent metrics"; Wiskott & Sejnowski 2002, "Slow feature
    analysis".

    Examples
    --------
    >>> import torch
    >>> model = SlowAutoencoder(64, latent_dim=2, linearisation=3.0)
    >>> x = torch.rand(5, 3, 64)
    >>> errors = model.reconstruction_error(x.reshape(15, 64)).reshape(5, 3).mean(1)
    >>> torch.allclose(model.loss(x), errors + 3.0 * linearisation_error(model.code(x)))
    True
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 10,
        hidden_dims: Sequence[int] | None = (200,),
        activation: str = "tanh",
        code_activation: str = "linear",
        error: str = "squared",
        tied: bool = True,
        linearisation: float = 10.0,
        slowness: float = 0.0,
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        check_factor(type(self).__name__, "linearisation", linearisation)
        check_factor(type(self).__name__, "slowness", slowness)
        super().__init__(
            data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        )
        self.linearisation = linearisation
        self.slowness = slowness

    def penalty(self, x: Tensor, z: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor | None:
        """Return what the loss has beside the error, (B,), for the codes (B, 3, Z) of windows."""
        return self.linearisation * linearisation_error(z) + self.slowness * squared_step(z)

    def loss(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the loss of each window, (B,), for ``x`` of shape (B, 3, D): three frames in a row."""
        self._check_windows(x)
        frames = x.flatten(0, 1)
        codes = self.code(frames)
        error = self.reconstruction_error(frames, codes).reshape(-1, WINDOW).mean(1)
        penalty = self.penalty(x, codes.reshape(-1, WINDOW, self.latent_dim), seed=seed, row_offset=row_offset)
        return error if penalty is None else error + penalty

    def figures(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> dict[str, Tensor]:
        """Return what `Autoencoder.figures` does for the middle frames, and what the codes of windows tell."""
        self._check_windows(x)
        z = self.code(x)
        of_codes = {"linearisation error": linearisation_error(z), "squared step of the code": squared_step(z)}
        return super().figures(x[:, 1], seed=seed, row_offset=row_offset) | of_codes

    def _check_windows(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[1] != WINDOW:
            got = tuple(x.shape) if isinstance(x, Tensor) else shown(x)
            raise ValueError(
                f"{type(self).__name__}: x must have the shape (B, {WINDOW}, {self.data_dim}), three frames in a row, "
                f"got {got}"
            )


@dataclass(frozen=True)
class SlowAutoencoderOptions(AutoencoderOptions):
    """Options of a `SlowAutoencoder`, without the shape of the data.

    Examples
    --------
    >>> from fastvi.models import DataShape
    >>> SlowAutoencoderOptions(linearisation=30.0).build(DataShape((8, 8))).linearisation
    30.0
    """

    model = SlowAutoencoder
    uses_neighbours: ClassVar[bool] = True

    latent_dim: int = option("values of the code", 10, at_least=1)
    hidden_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers, from the data inwards, or none", (200,), at_least=1, called="widths"
    )
    error: str = option("of the reconstruction", "squared", choices=ERRORS)
    tied: bool = option("the decoder has the encoder's weights, transposed", True)
    linearisation: float = option("weight of the linearisation error of the code", 10.0)
    slowness: float = option("weight of the squared step of the code", 0.0)
