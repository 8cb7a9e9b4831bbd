"""Autoencoders with sparse codes: by the L1 norm, or by the k largest values alone, which is the L0 norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi._options import check_count, check_factor, option
from fastvi._sizes import shown
from fastvi.autoencoders.base import Autoencoder, AutoencoderOptions
from fastvi.autoencoders.layers import CODE_ACTIVATIONS


def k_sparse(z: Tensor, num_active: int) -> Tensor:
    """Return codes of which the ``num_active`` largest values are kept and the others are 0.

    They are largest with their sign: a negative value is kept only where too few are positive. Among equal values some
    are kept, so that never more than ``num_active`` are. Gradients pass through the values that are kept.

    Parameters
    ----------
    z
        Codes, shape (..., Z).
    num_active
        How many values of each code are kept, from 1 to Z.

    Raises
    ------
    TypeError, ValueError
        If z is no tensor with an axis, or ``num_active`` is no integer from 1 to Z.

    References
    ----------
    Makhzani & Frey 2014, "k-sparse autoencoders", section 2.1.

    Examples
    --------
    >>> k_sparse(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), 2)
    tensor([[3., 0., 2., 0.]])
    """
    if not isinstance(z, Tensor) or z.dim() == 0:
        kind = "a tensor without axes" if isinstance(z, Tensor) else shown(z)
        raise TypeError(f"k_sparse: z must be a tensor of shape (..., Z), got {kind}")
    _check_active("k_sparse", num_active, z.shape[-1])
    kept = z.topk(num_active, -1)
    return torch.zeros_like(z).scatter(-1, kept.indices, kept.values)


def _check_active(owner: str, num_active: int, latent_dim: int) -> None:
    if check_count(owner, "num_active", num_active) > latent_dim:
        raise ValueError(f"{owner}: num_active must be at most the code's {latent_dim} values, got {num_active}")


class SparseAutoencoder(Autoencoder):
    r"""Autoencoder with the loss :math:`\ell(x, \Psi(z)) + \lambda \|z\|_1`.

    A decoder of its own could make up for a code of any small scale; with tied weights it cannot.

    Parameters
    ----------
    data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        See `Autoencoder`. A code of ``"relu"`` has values that are exactly 0.
    sparsity
        :math:`\lambda`, in the unit of the error.

    Raises
    ------
    TypeError, ValueError
        See `Autoencoder`; and if ``sparsity`` is no finite number of 0 or more.

    References
    ----------
    Ranzato, Boureau & LeCun 2008, "Sparse feature learning for deep belief networks"; Glorot, Bordes & Bengio 2011,
    "Deep sparse rectifier neural networks", section 3.

    Examples
    --------
    >>> model = SparseAutoencoder(64, latent_dim=128, sparsity=0.5)
    >>> x = torch.rand(5, 64)
    >>> torch.allclose(model.loss(x), model.reconstruction_error(x) + 0.5 * model.code(x).abs().sum(-1))
    True
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 500,
        hidden_dims: Sequence[int] | None = None,
        activation: str = "tanh",
        code_activation: str = "relu",
        error: str = "bernoulli",
        tied: bool = True,
        sparsity: float = 0.1,
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        check_factor(type(self).__name__, "sparsity", sparsity)
        super().__init__(
            data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        )
        self.sparsity = sparsity

    def penalty(self, x: Tensor, z: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor | None:
        """Return the L1 norm of each code times ``sparsity``, (B,)."""
        return self.sparsity * z.abs().sum(-1)

    def figures(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> dict[str, Tensor]:
        """Return what `Autoencoder.figures` does, the L1 norm of the code, and how many of its values are not 0."""
        z = self.code(x)
        norms = {"L1 norm of the code": z.abs().sum(-1), "values of the code that are not 0": _active(z)}
        return super().figures(x, seed=seed, row_offset=row_offset) | norms


class KSparseAutoencoder(Autoencoder):
    """Autoencoder whose code is the k largest values of the encoder, see `k_sparse`.

    Parameters
    ----------
    data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        See `Autoencoder`.
    num_active
        k, from 1 to Z.

    Raises
    ------
    TypeError, ValueError
        See `Autoencoder`; and if ``num_active`` is no integer from 1 to Z.

    References
    ----------
    Makhzani & Frey 2014, "k-sparse autoencoders": one layer, a linear code, tied weights.

    Examples
    --------
    >>> model = KSparseAutoencoder(64, latent_dim=128, num_active=10)
    >>> (model.code(torch.rand(2, 64)) != 0).sum(-1)
    tensor([10, 10])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 500,
        hidden_dims: Sequence[int] | None = None,
        activation: str = "tanh",
        code_activation: str = "linear",
        error: str = "bernoulli",
        tied: bool = True,
        num_active: int = 40,
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__(
            data_dim, latent_dim, hidden_dims, activation, code_activation, error, tied, data_mean, validate_args
        )
        _check_active(type(self).__name__, num_active, self.latent_dim)
        self.num_active = num_active

    def code(self, x: Tensor) -> Tensor:
        """Return the code z, shape (B, Z), with ``num_active`` values that are not 0, or fewer."""
        return k_sparse(super().code(x), self.num_active)

    def figures(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> dict[str, Tensor]:
        """Return what `Autoencoder.figures` does, and how many values of the code are not 0."""
        return super().figures(x, seed=seed, row_offset=row_offset) | {
            "values of the code that are not 0": _active(self.code(x))
        }


def _active(z: Tensor) -> Tensor:
    return (z != 0).sum(-1)


@dataclass(frozen=True)
class SparseAutoencoderOptions(AutoencoderOptions):
    """Options of a `SparseAutoencoder`, without the shape of the data.

    Examples
    --------
    >>> from fastvi.models import DataShape
    >>> SparseAutoencoderOptions(sparsity=0.5).build(DataShape((8, 8))).sparsity
    0.5
    """

    model = SparseAutoencoder

    latent_dim: int = option("values of the code", 500, at_least=1)
    hidden_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers, from the data inwards, or none", None, at_least=1, called="widths"
    )
    code_activation: str = option("of the code", "relu", choices=tuple(CODE_ACTIVATIONS))
    tied: bool = option("the decoder has the encoder's weights, transposed", True)
    sparsity: float = option("weight of the L1 norm of the code", 0.1)


@dataclass(frozen=True)
class KSparseAutoencoderOptions(AutoencoderOptions):
    """Options of a `KSparseAutoencoder`, without the shape of the data.

    Examples
    --------
    >>> from fastvi.models import DataShape
    >>> KSparseAutoencoderOptions(latent_dim=100, num_active=10).build(DataShape((8, 8))).num_active
    10
    """

    model = KSparseAutoencoder

    latent_dim: int = option("values of the code", 500, at_least=1)
    hidden_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers, from the data inwards, or none", None, at_least=1, called="widths"
    )
    tied: bool = option("the decoder has the encoder's weights, transposed", True)
    num_active: int = option("values of each code that are kept, the largest", 40, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_active(type(self).__name__, self.num_active, self.latent_dim)
