"""The contractive autoencoder: its code changes little with x (Rifai et al. 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastvi._options import check_count, check_factor, option
from fastvi.autoencoders.base import Autoencoder, AutoencoderOptions
from fastvi.autoencoders.jacobian import contractive_penalty
from fastvi.autoencoders.layers import CODE_ACTIVATIONS


class ContractiveAutoencoder(Autoencoder):
    r"""Autoencoder with the loss :math:`\ell(x, \Psi(z)) + \lambda \|\partial \Phi(x) / \partial x\|_F^2`.

    Parameters
    ----------
    data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        See `Autoencoder`.
    contraction
        :math:`\lambda`, in the unit of the error.
    num_probes
        None: the norm is exact, see `fastvi.autoencoders.contractive_penalty`. Else it is estimated in training by so
        many vectors of random signs, which is cheaper for an encoder of several layers.

    Raises
    ------
    TypeError, ValueError
        See `Autoencoder`; and if ``contraction`` is no finite number of 0 or more, or ``num_probes`` no positive
        integer.

    References
    ----------
    Rifai, Vincent, Muller, Glorot & Bengio 2011, "Contractive auto-encoders": one sigmoid layer, tied weights.

    Examples
    --------
    >>> import torch
    >>> model = ContractiveAutoencoder(64, latent_dim=32, contraction=0.5)
    >>> x = torch.rand(5, 64)
    >>> norm = contractive_penalty(model.encoder, x)
    >>> torch.allclose(model.loss(x), model.reconstruction_error(x) + 0.5 * norm)
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
        contraction: float = 0.1,
        num_probes: int | None = None,
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        check_factor(type(self).__name__, "contraction", contraction)
        if num_probes is not None:
            check_count(type(self).__name__, "num_probes", num_probes)
        super().__init__(
            data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        )
        self.contraction = contraction
        self.num_probes = num_probes

    def penalty(self, x: Tensor, z: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor | None:
        """Return the squared norm of each Jacobian, or its estimate, times ``contraction``, (B,)."""
        norms = contractive_penalty(self.encoder, x, num_probes=self.num_probes, seed=seed, row_offset=row_offset)
        return self.contraction * norms

    def figures(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> dict[str, Tensor]:
        """Return what `Autoencoder.figures` does, and the squared norm of the encoder's Jacobian, exactly."""
        found = super().figures(x, seed=seed, row_offset=row_offset)
        return found | {"squared norm of the encoder's Jacobian": contractive_penalty(self.encoder, x)}


@dataclass(frozen=True)
class ContractiveAutoencoderOptions(AutoencoderOptions):
    """Options of a `ContractiveAutoencoder`, without the shape of the data.

    Examples
    --------
    >>> from fastvi.models import DataShape
    >>> ContractiveAutoencoderOptions(hidden_dims=(100,), num_probes=1).build(DataShape((8, 8))).num_probes
    1
    """

    model = ContractiveAutoencoder

    latent_dim: int = option("values of the code", 500, at_least=1)
    hidden_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers, from the data inwards, or none", None, at_least=1, called="widths"
    )
    code_activation: str = option("of the code", "sigmoid", choices=tuple(CODE_ACTIVATIONS))
    tied: bool = option("the decoder has the encoder's weights, transposed", True)
    contraction: float = option("weight of the squared norm of the encoder's Jacobian", 0.1)
    num_probes: int | None = option("vectors of signs that estimate the norm; exact without it", None, at_least=1)
