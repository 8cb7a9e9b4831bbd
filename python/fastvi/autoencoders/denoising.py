"""The denoising autoencoder: it reconstructs x from x with noise (Vincent et al. 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastvi._options import option
from fastvi.autoencoders.base import Autoencoder, AutoencoderOptions
from fastvi.autoencoders.corruption import CORRUPTIONS, check_corruption, corrupt
from fastvi.autoencoders.geometry import denoising_score
from fastvi.autoencoders.layers import CODE_ACTIVATIONS


class DenoisingAutoencoder(Autoencoder):
    r"""Autoencoder whose loss is :math:`\ell(x, \Psi(\Phi(\tilde x)))` with :math:`\tilde x` made of x by noise.

    With Gaussian noise and the squared error, the best reconstruction is the mean of x given :math:`\tilde x`, and then
    :math:`(r(\tilde x) - \tilde x) / \sigma^2` is the gradient of :math:`\log p_\sigma(\tilde x)`, the density of the
    data with the noise: see `score`.

    Parameters
    ----------
    data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        See `Autoencoder`.
    corruption, corruption_level
        Kind and level of the noise, see `fastvi.autoencoders.corrupt`. The code and the reconstruction of an evaluation
        are those of x without noise.

    Raises
    ------
    TypeError, ValueError
        See `Autoencoder` and `corrupt`.

    References
    ----------
    Vincent, Larochelle, Bengio & Manzagol 2008, "Extracting and composing robust features with denoising autoencoders";
    Vincent 2011, "A connection between score matching and denoising autoencoders"; Alain & Bengio 2014, "What
    regularized auto-encoders learn from the data generating distribution", theorem 1.

    Examples
    --------
    >>> import torch
    >>> model = DenoisingAutoencoder(64, latent_dim=32, corruption="masking", corruption_level=0.25)
    >>> x = torch.rand(5, 64)
    >>> torch.allclose(model.loss(x, seed=1)[3:], model.loss(x[3:], seed=1, row_offset=3))
    True
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 500,
        hidden_dims: Sequence[int] | None = None,
        activation: str = "tanh",
        code_activation: str = "sigmoid",
        error: str = "bernoulli",
        tied: bool = True,
        corruption: str = "masking",
        corruption_level: float = 0.25,
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        check_corruption(type(self).__name__, corruption, corruption_level, "corruption_level")
        super().__init__(
            data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        )
        self.corruption = corruption
        self.corruption_level = corruption_level

    def corrupt(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return x with the noise of training, shape (B, D)."""
        self._check_data(x)
        return corrupt(x, self.corruption, self.corruption_level, seed=seed, row_offset=row_offset)

    def loss(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the error of x reconstructed from x with noise, (B,)."""
        return self.reconstruction_error(x, self.code(self.corrupt(x, seed=seed, row_offset=row_offset)))

    def score(self, x: Tensor) -> Tensor:
        r"""Return :math:`(r(x) - x) / \sigma^2`, shape (B, D): an estimate of :math:`\nabla_x \log p_\sigma(x)`.

        Raises
        ------
        ValueError
            If the noise is not Gaussian, or has the level 0.
        """
        if self.corruption != "gaussian" or self.corruption_level == 0:
            raise ValueError(
                f"{type(self).__name__}: the score needs Gaussian noise of a positive level, and the corruption is "
                f"{self.corruption} of level {self.corruption_level}"
            )
        return denoising_score(self, x, self.corruption_level)

    def figures(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> dict[str, Tensor]:
        """Return what `Autoencoder.figures` does, and the squared error of x with noise and of what is made of it."""
        noisy = self.corrupt(x, seed=seed, row_offset=row_offset)
        found = super().figures(x, seed=seed, row_offset=row_offset)
        found["squared error with noise"] = (noisy - x).square().sum(-1)
        found["squared error denoised"] = (self.reconstruct(noisy) - x).square().sum(-1)
        return found


@dataclass(frozen=True)
class DenoisingAutoencoderOptions(AutoencoderOptions):
    """Options of a `DenoisingAutoencoder`, without the shape of the data.

    Examples
    --------
    >>> from fastvi.models import DataShape
    >>> DenoisingAutoencoderOptions(corruption="gaussian", corruption_level=0.5).build(DataShape((8, 8))).corruption
    'gaussian'
    """

    model = DenoisingAutoencoder

    latent_dim: int = option("values of the code", 500, at_least=1)
    hidden_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers, from the data inwards, or none", None, at_least=1, called="widths"
    )
    code_activation: str = option("of the code", "sigmoid", choices=tuple(CODE_ACTIVATIONS))
    tied: bool = option("the decoder has the encoder's weights, transposed", True)
    corruption: str = option("kind of the noise", "masking", choices=CORRUPTIONS)
    corruption_level: float = option("its standard deviation, or the share of values that it changes", 0.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_corruption(type(self).__name__, self.corruption, self.corruption_level, "corruption_level")
