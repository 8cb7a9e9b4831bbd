"""The plain autoencoder: an encoder, a decoder, the error of the reconstruction, and no distribution of the code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastvi._options import check_count, check_sizes, option, options_of
from fastvi._sizes import shown
from fastvi.autoencoders.errors import ERRORS, error_after_linear, error_of, mean_of, parts_of, start_of
from fastvi.autoencoders.layers import CODE_ACTIVATIONS, HIDDEN_ACTIVATIONS, mirrored, perceptron
from fastvi.models._checks import check_codes
from fastvi.models.base import DataShape, ModelOptions


class Autoencoder(nn.Module):
    r"""Autoencoder :math:`x \to z = \Phi(x) \to \Psi(z)` of two perceptrons, with the loss :math:`\ell(x, \Psi(z))`.

    A subclass limits its capacity: it adds a `penalty`, or overrides `loss` or `code`.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    latent_dim
        Z, the number of values of the code.
    hidden_dims
        Widths of the encoder's hidden layers, from the data to the code; the decoder mirrors them. None: the encoder is
        one layer, and so is the decoder.
    activation
        Of the hidden layers: ``"tanh"``, ``"relu"``, ``"softplus"``, ``"elu"`` or ``"sigmoid"``.
    code_activation
        Of the code: one of these, or ``"linear"``, which is none.
    error
        Of the reconstruction, summed over the D values: ``"squared"``, with a linear output, or a name of
        ``fastvi.models.LIKELIHOODS`` for minus the log-likelihood in nats, such as ``"bernoulli"``, the cross-entropy
        of values in [0, 1].
    tied
        Whether the decoder's matrices are those of the encoder, transposed. The second and third number that some
        likelihoods have for each value get weights of their own.
    data_mean
        Mean of the training data, shape (D,): with the output biases that belong to it the reconstruction begins.
        None: they start at 0.
    validate_args
        Whether the error looks at the values of x, as `fastvi.models.VAE` does.

    Raises
    ------
    ValueError, TypeError
        For a size that is not a positive integer, an unknown name, or a ``data_mean`` of another shape; from its
        methods for an x of another size or type.

    References
    ----------
    Vincent, Larochelle, Lajoie, Bengio & Manzagol 2010, "Stacked denoising autoencoders", section 2.

    Examples
    --------
    >>> model = Autoencoder(64, latent_dim=2, hidden_dims=(32,))
    >>> x = torch.rand(5, 64)
    >>> model.code(x).shape, model.reconstruct(x).shape, model.loss(x).shape
    (torch.Size([5, 2]), torch.Size([5, 64]), torch.Size([5]))
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] | None = (200, 200),
        activation: str = "tanh",
        code_activation: str = "linear",
        error: str = "bernoulli",
        tied: bool = False,
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.data_dim = check_count(name, "data_dim", data_dim)
        self.latent_dim = check_count(name, "latent_dim", latent_dim)
        hidden_dims = () if hidden_dims is None else check_sizes(name, "hidden_dims", hidden_dims)
        widths = [check_count(name, "hidden_dims", width) for width in hidden_dims]
        for what, value, choices in (
            ("activation", activation, HIDDEN_ACTIVATIONS),
            ("code_activation", code_activation, CODE_ACTIVATIONS),
            ("error", error, ERRORS),
        ):
            if value not in choices:
                raise ValueError(f"{name}: {what} must be one of {', '.join(choices)}, got {value!r}")
        if data_mean is not None and data_mean.shape != (self.data_dim,):
            raise ValueError(f"{name}: data_mean must have the shape ({self.data_dim},), got {tuple(data_mean.shape)}")
        self.error = error
        self.validate_args = validate_args
        self.encoder = perceptron((self.data_dim, *widths, self.latent_dim), activation, code_activation)
        self.decoder, self.head = mirrored(self.encoder, activation, parts_of(error), tied)
        if data_mean is not None:
            bias = self.head.bias
            assert isinstance(bias, nn.Parameter)
            with torch.no_grad():
                bias[: self.data_dim] = start_of(error, data_mean)

    def code(self, x: Tensor) -> Tensor:
        """Return the code z, shape (B, Z), for ``x`` of shape (B, D)."""
        self._check_data(x)
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return the reconstruction, shape (..., D), for ``z`` of shape (..., Z)."""
        self._check_codes(z)
        return mean_of(self.error, self.head(self.decoder(z)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x from its code, shape (B, D), for ``x`` of shape (B, D)."""
        return self.decode(self.code(x))

    def reconstruction_error(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Return the error of each example, (B,), of the reconstruction from ``z``, by default from the code of x."""
        self._check_data(x)
        if z is None:
            z = self.code(x)
        self._check_codes(z)
        hidden = self.decoder(z)
        if isinstance(self.head, nn.Linear):
            return error_after_linear(self.error, x, hidden, self.head, self.validate_args)
        return error_of(self.error, x, self.head(hidden), self.validate_args)

    def penalty(self, x: Tensor, z: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor | None:
        """Return what the loss has beside the error, (B,), for x (B, D) and its code z (B, Z); None: nothing.

        What is drawn depends on the seed and on the place of each row, ``row_offset`` for the first, alone.
        """
        return None

    def loss(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the loss of each example, (B,): what `fastvi.objectives.Reconstruction` minimises.

        Parameters
        ----------
        x
            Data, (B, D).
        seed
            Determines all that is drawn; None takes the seed from PyTorch's generator.
        row_offset
            Place of ``x[0]`` in the whole batch.
        """
        z = self.code(x)
        error = self.reconstruction_error(x, z)
        penalty = self.penalty(x, z, seed=seed, row_offset=row_offset)
        return error if penalty is None else error + penalty

    def figures(self, x: Tensor, *, seed: int | None = None, row_offset: int = 0) -> dict[str, Tensor]:
        """Return what an evaluation tells beside the loss: values of each example, (B,), by name."""
        z = self.code(x)
        squared = (self.decode(z) - x).square().sum(-1)
        if self.error == "squared":
            return {"squared error": squared}
        return {"reconstruction error": self.reconstruction_error(x, z), "squared error": squared}

    def filters(self) -> Tensor:
        """Return the weights of the encoder's first layer, a row for each of its units: (units, D)."""
        first = self.encoder[0]
        assert isinstance(first, nn.Linear)
        return first.weight.detach()

    def _check_codes(self, z: Any) -> None:
        check_codes(type(self).__name__, z, self.latent_dim, self.filters().dtype)

    def _check_data(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: x must be a tensor of shape (B, {self.data_dim}), got {shown(x)}")
        if x.dim() == 0 or x.shape[-1] != self.data_dim:
            raise ValueError(f"{name}: x must have the shape (B, {self.data_dim}), got {tuple(x.shape)}")
        dtype = self.filters().dtype
        if x.dtype is not dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"{name}: x must have the model's dtype {dtype}, got {x.dtype}")


@dataclass(frozen=True)
class AutoencoderOptions(ModelOptions):
    """Options of an `Autoencoder`, without the shape of the data; those of the other kinds derive from them.

    Attributes
    ----------
    model
        The class that is built; each option is an argument of it.
    latent_dim, hidden_dims, activation, code_activation, error, tied
        See `Autoencoder`.

    Examples
    --------
    >>> AutoencoderOptions(latent_dim=2).build(DataShape((8, 8))).data_dim
    64
    """

    default_objective: ClassVar[str] = "reconstruction"
    model: ClassVar[type[Autoencoder]] = Autoencoder

    latent_dim: int = option("values of the code", 50, at_least=1)
    hidden_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers, from the data inwards, or none", (200, 200), at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "tanh", choices=tuple(HIDDEN_ACTIVATIONS))
    code_activation: str = option("of the code", "linear", choices=tuple(CODE_ACTIVATIONS))
    error: str = option("of the reconstruction", "bernoulli", choices=ERRORS, from_data="likelihood")
    tied: bool = option("the decoder has the encoder's weights, transposed", False)

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> Autoencoder:
        """Return the untrained model."""
        given: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in options_of(type(self))}
        return self.model(shape.data_dim, **given, data_mean=data_mean)
