"""Ways to choose 4- and 8-bit codes and scales that are better than rounding to nearest.

Everything here writes the symmetric format of ONNX Runtime's MatMulNBits and GatherBlockQuantized: a block of
`block_size` neighbouring weights of one row shares one float32 scale, the zero point is fixed at
2**(bits - 1), and

    weight ≈ (code - 2**(bits - 1)) * scale,        0 ≤ code < 2**bits.

The range is lopsided (-8 … 7 for four bits), so the sign of a scale is free to choose: the side of a block
that holds the largest magnitude can have the longer half. All methods share one signature and are found in
`METHODS`:

    method(weights float32 [n, K], bits, block_size, importance float32 [K] | None)
        -> (codes uint8 [n, ceil(K / block_size), block_size], scales float32 [n, ceil(K / block_size)])

`importance` weighs the squared error of each input channel; the natural choice is the mean square of its
activation (`quantize.calibration`). Rows are independent, so a caller may hand over any slice of rows and
gets the same result.

This module knows arrays; it does not know files, graphs or where an importance comes from.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantize.errors import SchemeError

__all__ = [
    "CALIBRATED",
    "DATA_FREE",
    "METHODS",
    "Method",
    "Triangle",
    "factorize",
    "gptq",
    "rtn",
    "search",
]

Array = NDArray[np.float32]
Codes = NDArray[np.uint8]

_TILE = 1 << 16
"""Weights per tile: three float32 buffers of it stay inside a 1 MiB second-level cache."""

_TINY = np.float32(2.0**-110)
"""A block whose largest magnitude is below this is stored as zeros: its scale would be a denormal."""

_GRID = {
    4: (-8.0, -7.4, -6.8, -8.6, -9.2),
    8: (-128.0,),
}
"""What a block's largest magnitude is mapped to, tried in this order. The first is round-to-nearest's own
choice.

Five candidates and two refits reach 99 % of what sixteen or ninety candidates of both signs gain on
Gaussian and Laplacian weights (squared error .89 of round-to-nearest's against .885), in a quarter of the
time.
"""


class Method(Protocol):
    """Chooses codes and scales for rows of weights; see the module's docstring for shapes."""

    def __call__(
        self, weights: Array, bits: int, block_size: int, importance: Array | None = None
    ) -> tuple[Codes, Array]:
        """Codes uint8 [n, blocks, block_size] and scales float32 [n, blocks]."""
        ...


# --- tiles ----------------------------------------------------------------------------------------

_Tile = Callable[[Array, Array | None], tuple[Array, Array]]
"""(normalised weights [block, N], importance [block, N] or None) -> (codes - half [block, N], scales [N])."""


def _blocks(weights: Array, bits: int, block_size: int) -> tuple[Array, int]:
    """Check the arguments and pad the last block of every row with zeros: [n, blocks, block_size]."""
    if bits not in _GRID:
        raise SchemeError(f"{bits} bits cannot be quantized; choose one of {', '.join(map(str, _GRID))}")
    if block_size < 16 or block_size & (block_size - 1):
        raise SchemeError(f"block size {block_size} is not a power of two of at least 16")
    if weights.ndim != 2:
        raise SchemeError(f"weights of shape {list(weights.shape)} are not a matrix [rows, input channels]")
    rows, columns = weights.shape
    count = -(-columns // block_size)
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    if count * block_size != columns:
        weights = np.pad(weights, ((0, 0), (0, count * block_size - columns)))
    return weights.reshape(rows, count, block_size), count


def _spread(importance: Array | None, columns: int, count: int, block_size: int) -> Array | None:
    """The importance as [blocks, block_size], scaled to mean 1, never quite zero; None stays None."""
    if importance is None:
        return None
    if importance.shape != (columns,):
        raise SchemeError(
            f"importance of shape {list(importance.shape)} does not fit {columns} input channels"
        )
    wide = np.asarray(importance, dtype=np.float64)
    if not np.isfinite(wide).all() or (wide < 0).any():
        raise SchemeError("importance has negative or non-finite entries: the calibration run went wrong")
    mean = wide.mean() if columns else 0.0
    wide = wide / mean if mean > 0 else np.ones(columns)
    # A channel that the calibration never saw still deserves some accuracy.
    wide = np.pad(wide + 1e-4, (0, count * block_size - columns), constant_values=1e-4)
    return wide.astype(np.float32).reshape(count, block_size)


def _cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _run_tiles(
    weights: Array, bits: int, block_size: int, importance: Array | None, tile: _Tile, threads: int | None
) -> tuple[Codes, Array]:
    """Cut the blocks into cache-sized tiles, run `tile` over them on `threads` threads and gather the result.

    A tile is transposed to [block_size, N], so that every numpy loop runs over N neighbouring numbers, and
    normalised by its blocks' largest magnitudes, so that grids are constants and squares neither overflow
    nor vanish.
    """
    columns = weights.shape[1] if weights.ndim == 2 else 0
    blocks, count = _blocks(weights, bits, block_size)
    spread = _spread(importance, columns, count, block_size)
    rows, half = blocks.shape[0], 1 << (bits - 1)
    codes = np.empty(blocks.shape, np.uint8)
    scales = np.empty(blocks.shape[:2], np.float32)
    step = max(1, _TILE // max(1, count * block_size))

    def work(start: int) -> None:
        part = blocks[start : start + step]
        lone = part.shape[0] * count == 1
        if lone:
            # numpy sums a single column in another order than several: the result would depend on the slice.
            part = np.repeat(part, 2, axis=0)
        flat = np.ascontiguousarray(part.reshape(-1, block_size).T)
        top, bottom = flat.max(axis=0), flat.min(axis=0)
        peak = np.where(top > -bottom, top, bottom)
        dead = np.abs(peak) < _TINY
        if not np.isfinite(peak).all():
            raise SchemeError("weights hold NaN or infinite values and cannot be quantized")
        flat *= np.where(dead, np.float32(0), np.float32(1) / np.where(dead, np.float32(1), peak))
        weigh = None if spread is None else np.ascontiguousarray(np.tile(spread, (part.shape[0], 1)).T)
        values, scale = tile(flat, weigh)
        values += np.float32(half)
        scale *= peak
        scale[dead] = 0
        here = slice(start, start + 1 if lone else start + step)
        codes[here] = values.T.astype(np.uint8).reshape(part.shape)[: 1 if lone else None]
        scales[here] = scale.reshape(part.shape[:2])[: 1 if lone else None]

    starts = range(0, rows, step)
    workers = min(threads or _cores(), len(starts))
    if workers <= 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, starts))
    return codes, scales


# --- methods that see one block at a time ---------------------------------------------------------


def _weighted(values: Array, weigh: Array | None, out: Array) -> Array:
    """values * weigh in `out`, or the values themselves when nothing is weighed."""
    return values if weigh is None else np.multiply(values, weigh, out=out)


def _fit(flat: Array, target: Array, weigh: Array | None, codes: Array, work: Array) -> tuple[Array, Array]:
    """For given codes: the least-squares scale of every block, and the weighted square that it explains.

    With b = Σ i·v·q and c = Σ i·q², the best scale is b / c and the error Σ i·v² − b² / c. `target` is i·v.
    """
    np.multiply(target, codes, out=work)
    along = work.sum(axis=0)
    np.multiply(codes, codes, out=work)
    if weigh is not None:
        work *= weigh
    length = work.sum(axis=0)
    np.maximum(length, np.float32(1e-30), out=length)
    scale = along / length
    return scale, along * scale


def _round(flat: Array, factor: Array | np.float32, half: int, out: Array) -> Array:
    """flat * factor rounded to the nearest code, −half … half − 1, in `out`."""
    np.multiply(flat, factor, out=out)
    np.rint(out, out=out)
    return np.clip(out, -half, half - 1, out=out)


def rtn(
    weights: Array, bits: int, block_size: int, importance: Array | None = None, *, threads: int | None = None
) -> tuple[Codes, Array]:
    """Round to nearest: the largest magnitude of a block becomes −2**(bits − 1). `importance` is not used.

    Raises:
        SchemeError: the bits, block size or shapes cannot be carried out, or a weight is not finite.
    """
    half = 1 << (bits - 1)

    def tile(flat: Array, _: Array | None) -> tuple[Array, Array]:
        codes = _round(flat, np.float32(-half), half, flat)
        return codes, np.full(flat.shape[1], -1 / half, np.float32)

    return _run_tiles(weights, bits, block_size, None, tile, threads)


def search(
    weights: Array, bits: int, block_size: int, importance: Array | None = None, *, threads: int | None = None
) -> tuple[Codes, Array]:
    """Least squares over a grid: for every block the scale whose codes explain the most weighted square.

    A few scales around round-to-nearest's are tried; each is judged by the error that its codes leave
    *after* the closed-form refit of the scale. Two rounds of rounding and refitting then polish the winner.
    The error is never above round-to-nearest's, whose scale is in the grid.

    Raises:
        SchemeError: the bits, block size or shapes cannot be carried out, or a weight is not finite.
    """
    half, grid = 1 << (bits - 1), _GRID.get(bits, ())

    def tile(flat: Array, weigh: Array | None) -> tuple[Array, Array]:
        codes, work = np.empty_like(flat), np.empty_like(flat)
        target = _weighted(flat, weigh, np.empty_like(flat) if weigh is not None else work)
        best = np.full(flat.shape[1], -1, np.float32)
        factor = np.empty(flat.shape[1], np.float32)
        # 1. the grid
        for candidate in grid:
            _round(flat, np.float32(candidate), half, codes)
            _, gain = _fit(flat, target, weigh, codes, work)
            better = gain > best
            best[better] = gain[better]
            factor[better] = candidate
        # 2. codes of the winner, then alternate: best scale for the codes, best codes for the scale
        _round(flat, factor, half, codes)
        scale, _ = _fit(flat, target, weigh, codes, work)
        for _ in range(2):
            _round(flat, np.float32(1) / np.where(scale == 0, np.float32(1), scale), half, codes)
            scale, _ = _fit(flat, target, weigh, codes, work)
        return codes, scale

    return _run_tiles(weights, bits, block_size, importance, tile, threads)


# --- a method that sees how channels move together ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Triangle:
    """A factored input covariance: `H = Mᵀ M` with M lower triangular; see `factorize`.

    `carry` float32 [K, K], strictly lower: M[i, j] / M[i, i], how much of channel j's error channel i can
    take over. `weight` float32 [K]: M[i, i]², the price of an error in channel i that later channels cannot
    repair.
    """

    carry: Array
    weight: Array


def factorize(covariance: NDArray[np.floating], damping: float = 0.01) -> Triangle:
    """Factor a covariance of input activations [K, K] (Σ x xᵀ, any scale) for `gptq`.

    `damping` times the mean diagonal is added to the diagonal, which bounds how far one channel may be bent
    to repair another. Works in float64: K²·8 bytes twice over (K = 4864: 380 MB), released before it
    returns.

    Raises:
        SchemeError: the covariance is not square, or not finite.
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise SchemeError(f"a covariance of shape {list(covariance.shape)} is not square")
    damped = np.array(covariance, dtype=np.float64)
    diagonal = np.einsum("ii->i", damped)
    if not np.isfinite(diagonal).all():
        raise SchemeError("the activation covariance is not finite: the calibration run went wrong")
    mean = float(diagonal.mean())
    diagonal += damping * mean if mean > 0 else 1.0
    # H = Mᵀ M with M lower is a Cholesky factor of H read backwards.
    lower = np.linalg.cholesky(damped[::-1, ::-1]).T[::-1, ::-1]
    pivot = np.diagonal(lower).copy()
    carry = np.tril(lower / pivot[:, None], -1).astype(np.float32)
    return Triangle(carry, (pivot * pivot).astype(np.float32))


def gptq(
    weights: Array, bits: int, block_size: int, triangle: Triangle, *, threads: int | None = None
) -> tuple[Codes, Array]:
    """Minimise ‖M (w − ŵ)‖² column by column: every column also repairs the errors of the columns before it.

    GPTQ (Frantar et al., arXiv 2210.17323) in its left-looking form: with e = w − ŵ, row i of M e is
    M[i, i] · (w_i − ŵ_i + Σ_{j<i} M[i, j] / M[i, i] · e_j), so that column i is best rounded from the
    weight plus the carried errors. This needs a Cholesky factor but no inverse. The scales of a block come
    from `search` on the weights as corrected so far, weighed by M[i, i]².

    Args:
        weights: float32 [n, K].
        triangle: `factorize` of the covariance of this matrix' inputs.

    Raises:
        SchemeError: as `search`, or the triangle does not fit the weights.
    """
    rows, columns = weights.shape
    if triangle.carry.shape != (columns, columns):
        raise SchemeError(
            f"a covariance of {len(triangle.weight)} channels does not fit {columns} input channels"
        )
    count, half = -(-columns // block_size), 1 << (bits - 1)
    wanted = np.ascontiguousarray(weights.T, dtype=np.float32)
    errors = np.zeros_like(wanted)
    codes = np.full((rows, count, block_size), half, np.uint8)
    scales = np.zeros((rows, count), np.float32)
    for block in range(count):
        start, stop = block * block_size, min((block + 1) * block_size, columns)
        # 1. the weights of this block, corrected for all errors before it
        target = wanted[start:stop] + triangle.carry[start:stop, :start] @ errors[:start]
        _, scale = search(
            np.ascontiguousarray(target.T), bits, block_size, triangle.weight[start:stop], threads=threads
        )
        scales[:, block] = scale[:, 0]
        inverse = np.float32(1) / np.where(scale[:, 0] == 0, np.float32(1), scale[:, 0])
        # 2. round column after column, carrying each error into the rest of the block
        for column in range(start, stop):
            here = target[column - start]
            code = np.clip(np.rint(here * inverse), -half, half - 1)
            codes[:, block, column - start] = (code + half).astype(np.uint8)
            error = wanted[column] - code * scales[:, block]
            errors[column] = error
            if column + 1 < stop:
                target[column - start + 1 :] += triangle.carry[column + 1 : stop, column, None] * error
    return codes, scales


def _calibrated(name: str) -> Method:
    """A method that cannot be called without activations: it stands in `METHODS` so that schemes can name
    it."""

    def refuse(
        weights: Array, bits: int, block_size: int, importance: Array | None = None
    ) -> tuple[Codes, Array]:
        raise SchemeError(
            f"method '{name}' needs activations of the model: wrap the call in "
            "quantize.calibration.calibrated_quantizer and pass its quantizer on"
        )

    return refuse


DATA_FREE = ("rtn", "search")
"""Methods that need the weights alone."""

CALIBRATED = ("weighted", "gptq")
"""Methods that need the model's activations on some text: `search` with an importance, and `gptq`."""

METHODS: Mapping[str, Method] = MappingProxyType(
    {"rtn": rtn, "search": search, **{name: _calibrated(name) for name in CALIBRATED}}
)
"""What a scheme can name as its method."""
