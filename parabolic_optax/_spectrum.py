"""What every model of a quadratic in several directions shares: its spectrum, to read out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# An eigenvalue below this fraction of the largest is rounding.
_FLOOR = 1e-7


class SpectrumState(NamedTuple):
    """The last spectrum of an estimator; each [k].

    Attributes:
      eigenvalues: of the Hessian in the span, ascending.
      slopes: of the loss along the eigenvectors, at the point the step starts from.
      asymmetry: of the measured Hessian along the eigenvectors, relative.
    """

    eigenvalues: jax.Array
    slopes: jax.Array
    asymmetry: jax.Array

    @classmethod
    def empty(cls, rank: int, dtype: jnp.dtype) -> "SpectrumState":
        zeros = jnp.zeros(rank, dtype)
        return cls(zeros, zeros + 0, zeros + 0)

    def readings(self) -> dict[str, jax.Array]:
        return {"noise": jnp.sqrt(jnp.mean(self.asymmetry**2))}

    def direction_readings(self) -> dict[str, jax.Array]:
        empty = self.eigenvalues == 0.0
        way = jnp.where(empty, 0.0, -self.slopes) / jnp.where(empty, 1.0, self.eigenvalues)
        return {"eigenvalues": self.eigenvalues, "extremum": way}

    def restart(self) -> "SpectrumState":
        return jax.tree.map(jnp.zeros_like, self)


def decompose(matrix: jax.Array, symmetric: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvalues (ascending), eigenvectors and asymmetry along them, all of size k.

    Args:
      matrix: the Hessian as measured, [k, k].
      symmetric: what is made of it, [k, k].

    Returns:
      eigenvalues [k] and eigenvectors [k, k], as columns, of the symmetric matrix, and the
      row lengths [k] of N_ij / sqrt(|l_i l_j|), N = E^T (A - A^T) E / 2, A the measured one.
      Scaled like this, an error along a stiff direction does not drown a soft one.
    """
    eigenvalues, vectors = jnp.linalg.eigh(0.5 * (symmetric + symmetric.T))
    size = jnp.abs(eigenvalues)
    size = jnp.maximum(size, _FLOOR * jnp.max(size))
    scale = 1.0 / jnp.sqrt(jnp.where(size > 0.0, size, 1.0))
    skew = jnp.outer(scale, scale) * (vectors.T @ (0.5 * (matrix - matrix.T)) @ vectors)
    return eigenvalues, vectors, jnp.sqrt(jnp.sum(skew**2, axis=1))
