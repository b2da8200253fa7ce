"""Gaussian filtering of values that lie anywhere in a space of few dimensions.

``result[p] = sum over q of exp(-|f_p - f_q|**2 / 2) * values[q]``, approximately and times a nearly
constant factor, in time proportional to the number of points, on the permutohedral lattice (Adams,
Baek, Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010).

The space of d dimensions is laid out in simplices. A point lies inside one, and is a mixture of its
d + 1 corners. *Splat*: values are added to the corners. *Blur*: along each of d + 1 axes, vertices
are mixed with their neighbours, 1/2, 1, 1/2. *Slice*: a point takes the mixture of its corners.
Only vertices that are the corner of some point exist; the others count as zero.

Coordinates of vertices are d + 1 integers whose sum is zero, so that d of them are kept. Vertices
are numbered in the order in which points meet them, which keeps those of neighbouring pixels close
in memory. One thread finds them by a hash table, which takes half as long or less as sorting them.
What repeats for every iteration has several threads: splat sums over the points of each vertex, a
list made once, and blur walks in place along chains of neighbours, in which a vertex without any
does not occur.

Vectors run over channels. Vertices have as many as fill whole vectors.
"""

import math

import numpy as np

from minidl.kernels import memory, parallel, simd
from minidl.kernels.jit import kernel

BLOCK = 512  # points or vertices that are one task
PIECE = 128  # vertices of chains that are one task, at least; they fit into the first cache
AHEAD = 8  # vertices of a chain: how far ahead one is asked for
SMALLEST_TABLE = 16
PRIME, BITS = 0x45D9F3B, 0x7FFFFFFF  # a product of both fits into an int64
NEIGHBOUR = 0.5  # its weight; that of a vertex itself is 1


@kernel
def mixed(seed, number):
    """A hash of a number on top of the hash of those before it."""
    bits = ((seed ^ (int(number) & BITS)) * PRIME) & BITS
    return bits ^ (bits >> 15)


@kernel
def coordinate(nearest, rank, corner, i):
    """Coordinate i of a corner of the simplex around a point, from those of its corner 0."""
    size = len(nearest)
    return nearest[i] + corner - (size if rank[i] >= size - corner else 0)


@kernel
def elevate(point, scale, raised):
    """Lay a point into the plane of d + 1 coordinates whose sum is zero (section 3.1)."""
    total = 0.0
    for j in range(len(point), 0, -1):
        length = point[j - 1] * scale[j - 1]
        raised[j] = total - j * length
        total += length
    raised[0] = total


@kernel
def enclose(raised, nearest, rank):
    """Find the simplex around a point: its corner 0, and the order of the distances to it."""
    size = len(raised)
    excess = 0
    for j in range(size):
        step = int(math.floor(raised[j] / size + 0.5))
        nearest[j] = step * size
        excess += step
        rank[j] = 0
    for i in range(size):
        for j in range(i + 1, size):
            less = raised[i] - nearest[i] < raised[j] - nearest[j]
            rank[i] += less
            rank[j] += not less
    for j in range(size):  # rounding may have left the plane
        rank[j] += excess
        wrapped = size if rank[j] < 0 else -size if rank[j] >= size else 0
        rank[j] += wrapped
        nearest[j] += wrapped


@kernel
def embed(start, stop, points, scale, nearest, rank, weights, hashes):
    """Simplex, weights of the corners and hashes of the corners, of blocks of points.

    points : (N, d); scale : (d,); the others : (N, d + 1), overwritten
    """
    size = weights.shape[1]
    raised, share = np.empty(size), np.empty(size + 1)
    for p in range(start * BLOCK, min(stop * BLOCK, len(points))):
        elevate(points[p], scale, raised)
        enclose(raised, nearest[p], rank[p])
        share[:] = 0
        for j in range(size):
            part = (raised[j] - nearest[p, j]) / size
            share[size - 1 - rank[p, j]] += part
            share[size - rank[p, j]] -= part
        share[0] += 1 + share[size]
        for corner in range(size):
            weights[p, corner] = share[corner]
            bits = 0
            for i in range(size - 1):
                bits = mixed(bits, coordinate(nearest[p], rank[p], corner, i))
            hashes[p, corner] = bits


@kernel
def table_of(keys, count, size):
    """A hash table of `size` slots with the numbers of the first `count` vertices, else -1."""
    table = np.full(size, -1, np.int32)
    for v in range(count):
        bits = 0
        for i in range(keys.shape[1]):
            bits = mixed(bits, keys[v, i])
        slot = bits & (size - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        table[slot] = v
    return table


@kernel
def first_rows(keys, count, rows):
    """An array of `rows` rows, the first `count` of which are those of `keys`.

    Copying a slice does the same and takes Numba three seconds to compile.
    """
    result = np.empty((rows, keys.shape[1]), np.int32)
    for v in range(count):
        for i in range(keys.shape[1]):
            result[v, i] = keys[v, i]
    return result


@kernel
def find_vertices(nearest, rank, corners):
    """Number the vertices. Returns the hash table and their coordinates, (M, d).

    corners : (N, d + 1) hashes, replaced by the numbers of the vertices
    """
    n, size = corners.shape
    slots = SMALLEST_TABLE
    while slots < n or slots < 2 * size:
        slots *= 2
    keys = np.empty((slots // 2, size - 1), np.int32)
    count = 0
    table = table_of(keys, count, slots)
    for p in range(n):
        if count + size > len(keys):
            keys = first_rows(keys, count, slots)
            slots *= 2
            table = table_of(keys, count, slots)
        for corner in range(size):
            slot = corners[p, corner] & (len(table) - 1)
            v = table[slot]
            while v >= 0:
                same = True
                for i in range(size - 1):
                    same &= keys[v, i] == coordinate(nearest[p], rank[p], corner, i)
                if same:
                    break
                slot = (slot + 1) & (len(table) - 1)
                v = table[slot]
            if v < 0:
                v = count
                count += 1
                table[slot] = v
                for i in range(size - 1):
                    keys[v, i] = coordinate(nearest[p], rank[p], corner, i)
            corners[p, corner] = v
    return table, first_rows(keys, count, count)


@kernel
def find_neighbours(start, stop, table, keys, right, left):
    """Numbers of the vertices next to blocks of vertices along each axis, on either side.

    right, left : (d + 1, M); right is overwritten, and left, which holds -1, where there is one
    """
    m, d = keys.shape
    for v in range(start * BLOCK, min(stop * BLOCK, m)):
        for axis in range(d + 1):
            bits = 0
            for i in range(d):
                bits = mixed(bits, keys[v, i] + (-d if i == axis else 1))
            slot = bits & (len(table) - 1)
            u = table[slot]
            while u >= 0:
                same = True
                for i in range(d):
                    same &= keys[u, i] == keys[v, i] + (-d if i == axis else 1)
                if same:
                    break
                slot = (slot + 1) & (len(table) - 1)
                u = table[slot]
            right[axis, v] = u
            if u >= 0:
                left[axis, u] = v


@kernel
def find_chains(start, stop, right, left, chain, links, cuts, counts):
    """Vertices in the order of the chains they form along an axis, each axis a task.

    All but the first two are overwritten as far as they are needed.

    chain : (d + 1, M) vertices that have neighbours; links : (d + 1, M), the weight of the next one
    in it, zero at the end of a chain; cuts : (d + 1, M // PIECE + 2), ends of chains not too close
    to each other, after a 0; counts : (d + 1,) numbers of pieces
    """
    for axis in range(start, stop):
        at = count = 0
        cuts[axis, 0] = 0
        for first in range(right.shape[1]):
            if left[axis, first] < 0 and right[axis, first] >= 0:
                v = first
                while v >= 0:
                    chain[axis, at] = v
                    v = right[axis, v]
                    links[axis, at] = NEIGHBOUR if v >= 0 else 0
                    at += 1
                if at - cuts[axis, count] >= PIECE:
                    count += 1
                    cuts[axis, count] = at
        if at > cuts[axis, count]:
            count += 1
            cuts[axis, count] = at
        counts[axis] = count


@kernel
def invert(corners, ends, places):
    """Sort the places in `corners`, (N, d + 1) numbers of vertices, by vertex.

    ends : (M + 1,), where the places of vertices end, after a 0; places : flat; both overwritten
    """
    n, size = corners.shape
    ends[:] = 0
    for p in range(n):
        for corner in range(size):
            ends[corners[p, corner] + 1] += 1
    for v in range(1, len(ends)):
        ends[v] += ends[v - 1]
    behind = ends.copy()
    for p in range(n):
        for corner in range(size):
            v = corners[p, corner]
            places[behind[v]] = p * size + corner
            behind[v] += 1


@kernel
def splat(start, stop, values, channels, width, ends, points, weights, out):
    """Sums over the points of blocks of vertices.

    values : (N, C) flat; out : (M, width) flat, overwritten
    """
    lanes = simd.lanes(values)
    for v in range(start * BLOCK, min(stop * BLOCK, len(ends) - 1)):
        for c in range(0, channels, lanes):
            total = simd.splat(values.dtype.type(0))
            for i in range(ends[v], ends[v + 1]):
                value = simd.load_some(values, points[i] * channels + c, channels - c)
                total = simd.fma(simd.splat(weights[i]), value, total)
            simd.store(out, v * width + c, total)


@kernel
def blur(start, stop, values, width, chain, links, cuts):
    """Mix vertices with their neighbours along one axis, in place; each piece is a task."""
    zero = simd.splat(values.dtype.type(0))
    for piece in range(start, stop):
        first, last = cuts[piece], cuts[piece + 1] - 1
        for c in range(0, width, simd.lanes(values)):
            at = chain[first] * width + c
            before, link, here = zero, zero, simd.load(values, at)
            for i in range(first, last):
                simd.prefetch(values, chain[min(i + AHEAD, last)] * width + c)
                after_at = chain[i + 1] * width + c
                after = simd.load(values, after_at)
                total = simd.fma(link, before, here)
                link = simd.splat(links[i])
                simd.store(values, at, simd.fma(link, after, total))
                before, here, at = here, after, after_at
            simd.store(values, at, simd.fma(link, before, here))


@kernel
def slice_(start, stop, values, width, corners, weights, channels, out):
    """Add to `out`, (N, C) flat, the mixtures of corners of blocks of points."""
    n, size = corners.shape
    for p in range(start * BLOCK, min(stop * BLOCK, n)):
        for c in range(0, channels, simd.lanes(values)):
            at = p * channels + c
            total = simd.load_some(out, at, channels - c)
            for corner in range(size):
                value = simd.load(values, corners[p, corner] * width + c)
                total = simd.fma(simd.splat(weights[p, corner]), value, total)
            simd.store_some(out, at, total, channels - c)


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


class Lattice:
    """The filter K among some points, made once for any number of calls.

    Parameters
    ----------
    points : (N, d) float64 array
        Finite; N and d at least 1, N (d + 1) < 2**31; numbers from -1e7 to 1e7. A distance of 1
        is one standard deviation.
    """

    def __init__(self, points: np.ndarray) -> None:
        points = np.ascontiguousarray(points, np.float64)
        n, d = points.shape
        axes = np.arange(1, d + 1)
        # So that splat, blur and slice together are as wide as a Gaussian of deviation 1.
        scale = math.sqrt(2 / 3) * (d + 1) / np.sqrt(axes * (axes + 1))
        nearest, rank, corners = (memory.empty((n, d + 1), np.int32) for _ in range(3))
        weights = memory.empty((n, d + 1), np.float32)
        work = n * d * d
        parallel.run(embed, _blocks(n), work * 4, points, scale, nearest, rank, weights, corners)
        table, keys = find_vertices(nearest, rank, corners)
        self.corners, self._weights, self.size = corners, weights, len(keys)
        self._find_chains(table, keys)
        self._ends = np.empty(self.size + 1, np.int32)
        self._places = memory.empty((corners.size,), np.int32)
        invert(corners, self._ends, self._places)
        self._points = self._places // (d + 1)
        self.scale(1, 1)

    def _find_chains(self, table: np.ndarray, keys: np.ndarray) -> None:
        m, d = keys.shape
        right, left = np.empty((d + 1, m), np.int32), np.full((d + 1, m), -1, np.int32)
        parallel.run(find_neighbours, _blocks(m), m * d * 50, table, keys, right, left)
        chain, links = np.empty_like(right), np.empty(right.shape, np.float32)
        cuts, counts = np.empty((d + 1, m // PIECE + 2), np.int32), np.empty(d + 1, np.int32)
        parallel.run(find_chains, d + 1, m * d * 5, right, left, chain, links, cuts, counts)
        self._chains = list(zip(chain, links, cuts, counts, strict=True))

    def scale(self, before: np.ndarray | float, after: np.ndarray | float) -> None:
        """Let the filter be ``diag(after) @ K @ diag(before)`` from now on, at no cost.

        before, after : (N, 1) arrays, or numbers
        """
        d = self._weights.shape[1] - 1
        gain = 1 / (1 + 2.0**-d)
        factors = np.asarray(before, np.float32), np.asarray(after * gain, np.float32)
        self._splat_weights = (self._weights * factors[0]).reshape(-1)[self._places]
        self._slice_weights = self._weights * factors[1]

    def filter(
        self, values: np.ndarray, add_to: np.ndarray | None = None, transposed: bool = False
    ) -> np.ndarray:
        """Filter the channels of `values`.

        Parameters
        ----------
        values : (N, C) float32 array
        add_to : (N, C) float32 array, C-contiguous, that the result is added to, or None
        transposed : bool
            Blur along the axes in reverse order. That is the transposed filter, and differs from
            the filter by about a thousandth.

        Returns
        -------
        (N, C) float32 array; `add_to` where that is given
        """
        n, channels = values.shape
        values = np.ascontiguousarray(values, np.float32)
        if add_to is None:
            add_to = memory.empty((n, channels), np.float32)
            add_to.fill(0)
        lanes = simd.lanes_of(values.dtype)
        width = -(-channels // lanes) * lanes
        vertices = memory.empty((self.size * width,), np.float32)
        work = self.corners.size * width // lanes
        parallel.run(
            splat, _blocks(self.size), work * 4, values.reshape(-1), channels, width,
            self._ends, self._points, self._splat_weights, vertices,
        )  # fmt: skip
        for *chain, pieces in reversed(self._chains) if transposed else self._chains:
            parallel.run(blur, int(pieces), self.size * width // 4, vertices, width, *chain)
        parallel.run(
            slice_, _blocks(n), work * 3,
            vertices, width, self.corners, self._slice_weights, channels, add_to.reshape(-1),
        )  # fmt: skip
        return add_to
