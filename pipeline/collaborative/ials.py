"""Matrix factorization from implicit feedback: Hu, Koren, Volinsky 2008, "Collaborative filtering for implicit feedback
datasets" (iALS).

A user u prefers what it has viewed, p_ui = 1, to what it has not, p_ui = 0, with the confidence c_ui = 1 + alpha if it
has viewed i and 1 if not. (In the paper c_ui = 1 + alpha r_ui, r_ui being how much of i it has viewed; here, unlike
there, r_ui is 1 however often it has.) Users x_u and items y_i, (K,) each, minimise

    sum_ui c_ui (p_ui - <x_u, y_i>)^2 + reg (sum_u |x_u|^2 + sum_i |y_i|^2)                                     (eq. 3)

by turns, each turn exactly: given the items, each user has a linear equation of its own,

    x_u = (Y'Y + Y'(C_u - I) Y + reg I)^-1 Y' C_u p_u                                                            (eq. 4)

where Y'Y is the same for all and the rest touches only what u has viewed; and the other way round (eq. 5). Each row is
solved by one thread in a fixed order, so the factors do not depend on the number of threads.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled
from pipeline.core.config import check
from pipeline.core.progress import bar

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorConfig:
    """dim: K, numbers of a factor. alpha: how much more confidence a view deserves than none. reg: weight of the
    squared factors. sweeps: how often users and items are solved by turns."""

    dim: int = 32
    alpha: float = 20.0
    reg: float = 10.0
    sweeps: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        check(1 <= self.dim <= 256, f"dim: must be from 1 to 256, found {self.dim}")
        check(self.alpha > 0, f"alpha: must be above 0, found {self.alpha}")
        check(self.reg > 0, f"reg: must be above 0, found {self.reg}")
        check(self.sweeps >= 1, f"sweeps: must be 1 or more, found {self.sweeps}")
        check(self.seed >= 0, f"seed: must be 0 or more, found {self.seed}")


@dataclass(frozen=True, slots=True)
class Lists:
    """The row r of a sparse binary matrix is columns[offsets[r] : offsets[r + 1]]; offsets: (R + 1,)."""

    offsets: Longs
    columns: Ints

    def transposed(self, size: int) -> Lists:
        """The rows of each of `size` columns, in ascending order."""
        offsets = np.concatenate([[0], np.cumsum(np.bincount(self.columns, minlength=size))]).astype(np.int64)
        rows = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))
        return Lists(offsets, rows[np.argsort(self.columns, kind="stable")])


def factorize(viewed: Lists, size: int, config: FactorConfig, threads: int = 1) -> tuple[Floats, Floats]:
    """Users (U, K) and items (size, K) for what U users have viewed, turned so that the first numbers vary most.

    An item that nobody has viewed has a factor of 0.
    """
    items = start(np.random.default_rng(config.seed), size, config.dim)
    viewers = viewed.transposed(size)
    users = np.zeros((len(viewed.offsets) - 1, config.dim), np.float32)
    with bar(config.sweeps, "iALS", "sweep") as shown:
        for _ in range(config.sweeps):
            sweep(viewed, viewers, users, items, config, threads)
            shown.update(1)
    turn = principal_axes(gram(items))
    return users @ turn, items @ turn


def sweep(viewed: Lists, viewers: Lists, users: Floats, items: Floats, config: FactorConfig, threads: int = 1) -> None:
    """Solve all users (U, K) given the items (I, K), then all items given the users, in place."""
    solve_rows(viewed, items, gram(items), config.alpha, config.reg, users, threads)
    solve_rows(viewers, users, gram(users), config.alpha, config.reg, items, threads)


def start(random: np.random.Generator, size: int, dim: int) -> Floats:
    """Small random factors (size, dim) to begin with."""
    return random.standard_normal((size, dim), np.float32) * np.float32(0.1 / math.sqrt(dim))


def principal_axes(square: NDArray[np.float64]) -> Floats:
    """(K, K) eigenvectors of a Gram matrix, largest eigenvalue first, the largest number of each positive.

    A rotation of users and items changes no product between them.
    """
    _, axes = np.linalg.eigh(square)
    axes = axes[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))]
    return (axes * np.sign(largest)).astype(np.float32)


def objective(viewed: Lists, users: Floats, items: Floats, config: FactorConfig) -> float:
    """Eq. 3. The sum over all pairs is that of the squares, <X'X, Y'Y>; what was viewed corrects it."""
    rows = np.repeat(np.arange(len(users)), np.diff(viewed.offsets))
    product = np.einsum("nk,nk->n", users[rows], items[viewed.columns], dtype=np.float64)
    every = float((gram(users) * gram(items)).sum())
    seen = float(((1 + config.alpha) * (1 - product) ** 2 - product**2).sum())
    squares = float(np.square(users, dtype=np.float64).sum() + np.square(items, dtype=np.float64).sum())
    return every + seen + config.reg * squares


@compiled
def gram(factors: Floats) -> NDArray[np.float64]:
    """Y'Y (K, K), summed in double precision."""
    total = np.zeros((factors.shape[1], factors.shape[1]))
    for row in range(len(factors)):
        for i in range(factors.shape[1]):
            for j in range(factors.shape[1]):
                total[i, j] += np.float64(factors[row, i]) * np.float64(factors[row, j])
    return total


def solve_rows(
    viewed: Lists, other: Floats, square: NDArray[np.float64], alpha: float, reg: float, out: Floats, threads: int = 1
) -> None:
    """Eq. 4 for every row: write into `out` (R, K) the factors that fit `other` (C, K) best; square: other'other.

    A row without entries gets 0.
    """
    borders = np.linspace(0, len(out), threads + 1).astype(np.int64)
    with ThreadPoolExecutor(threads) as pool:
        solved = [
            pool.submit(_solve_range, first, last, viewed.offsets, viewed.columns, other, square, alpha, reg, out)
            for first, last in pairwise(borders)
        ]
        for each in solved:
            each.result()


@compiled
def _solve_range(
    first: int,
    last: int,
    offsets: Longs,
    columns: Ints,
    other: Floats,
    square: NDArray[np.float64],
    alpha: float,
    reg: float,
    out: Floats,
) -> None:
    dim = other.shape[1]
    left, right = np.empty((dim, dim)), np.empty(dim)
    for row in range(first, last):
        begin(square, reg, left)
        right[:] = 0
        for at in range(offsets[row], offsets[row + 1]):
            add(other[columns[at]], alpha, left, right)
        if offsets[row] < offsets[row + 1]:
            solve(left, right)
        out[row] = right


@compiled
def begin(square: NDArray[np.float64], reg: float, left: NDArray[np.float64]) -> None:
    """Y'Y + reg I, the left side of a row that has viewed nothing yet; the lower triangle alone is used."""
    left[:] = square
    for i in range(len(left)):
        left[i, i] += reg


@compiled
def add(item: Floats, alpha: float, left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    """Add an item that was viewed to both sides of eq. 4: alpha y y' and (1 + alpha) y."""
    for i in range(len(item)):
        value = np.float64(item[i])
        scaled = alpha * value
        right[i] += value + scaled
        for j in range(i + 1):
            left[i, j] += scaled * np.float64(item[j])


@compiled
def solve(left: NDArray[Any], right: NDArray[Any]) -> None:
    """Solve left x = right in place (x is in `right` then) by Cholesky's L L'; `left` must be positive definite."""
    dim = len(right)
    for i in range(dim):
        for j in range(i + 1):
            total = left[i, j] - _dot(left[i], left[j], j)
            left[i, j] = math.sqrt(total) if i == j else total / left[j, j]
        right[i] = (right[i] - _dot(left[i], right, i)) / left[i, i]  # L z = right
    for i in range(dim - 1, -1, -1):  # L' x = z
        right[i] /= left[i, i]
        for k in range(i):
            right[k] -= left[i, k] * right[i]


@compiled
def _dot(left: NDArray[Any], right: NDArray[Any], size: int) -> float:
    total = 0.0
    for i in range(size):
        total += left[i] * right[i]
    return total
