"""Inner loops of the search for the nearest centre, in vectors that stay in registers, which no compiler finds alone.

Each is a numba intrinsic, written in LLVM's own terms. Rows lie along the lanes of a vector, so that the least of all
centres is found without a step across lanes; numbers are added in the order of the features whatever the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

# Features that are turned together, and the numbers of a row that are added together.
WIDTH = 8
# Lanes of a vector: 64 bytes, which processors with narrower ones do in pieces.
LANES = {"float64": 8, "float32": 16}
# Vectors of rows and centres that are worked on together: as many sums as there are registers.
VECTORS, CENTRES = (3, 8) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (1, 6)

_i32, _i64, _float, _double = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_SCALARS = {"float64": (_double, _i64), "float32": (_float, _i32)}


class _Writer:
    """Writes instructions on vectors."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def pointer_or_value(self, kind: Any, value: Any) -> Any:
        """Return the pointer to the first element of an array, and what is no array as it is."""
        if isinstance(kind, types.Array):
            return self.context.make_array(kind)(self.context, self.builder, value).data
        return value

    def number(self, value: int) -> Any:
        return ir.Constant(_i64, value)

    def at(self, pointer: Any, *places: Any) -> Any:
        """Return a pointer moved by the sum of some numbers of elements."""
        for place in places:
            pointer = self.builder.gep(pointer, [self.number(place) if isinstance(place, int) else place])
        return pointer

    def load(self, pointer: Any, lanes: int) -> Any:
        kind = pointer.type.pointee
        vectors = self.builder.bitcast(pointer, ir.VectorType(kind, lanes).as_pointer())
        return self.builder.load(vectors, align=self.context.get_abi_sizeof(kind))

    def store(self, vector: Any, pointer: Any) -> None:
        vectors = self.builder.bitcast(pointer, vector.type.as_pointer())
        self.builder.store(vector, vectors, align=self.context.get_abi_sizeof(pointer.type.pointee))

    def splat(self, scalar: Any, lanes: int) -> Any:
        """Return a vector of one number."""
        kind = ir.VectorType(scalar.type, lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_i32, 0))
        return self.shuffle(first, first, [0] * lanes)

    def shuffle(self, one: Any, other: Any, places: list[int]) -> Any:
        return self.builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_i32, len(places)), places))

    def multiply_add(self, one: Any, other: Any, plus: Any) -> Any:
        """Return ``one * other + plus``, rounded once where the processor can."""
        kind = plus.type
        name = f"llvm.fmuladd.v{kind.count}{'f64' if kind.element == _double else 'f32'}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind, kind, kind]), name)
        return self.builder.call(function, [one, other, plus])

    def square_root(self, vector: Any) -> Any:
        kind = vector.type
        name = f"llvm.sqrt.v{kind.count}{'f64' if kind.element == _double else 'f32'}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind]), name)
        return self.builder.call(function, [vector])

    def variable(self, vector: Any) -> Any:
        """Return a place of a vector that changes in a loop, which the compiler makes a register."""
        return cgutils.alloca_once_value(self.builder, vector)

    def in_frame(self, pointer: Any, origin: Any, inverse: Any) -> Any:
        """Return WIDTH numbers of a row less the origin, times the inverse scale, in double precision."""
        numbers = self.load(pointer, WIDTH)
        if pointer.type.pointee == _float:
            numbers = self.builder.fpext(numbers, ir.VectorType(_double, WIDTH))
        return self.builder.fmul(self.builder.fsub(numbers, origin), inverse)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an intrinsic; compiled code calls it without the first argument."""
    made: Callable[..., Any] = extending.intrinsic(function)
    return made


def _written(signature: Any, write: Callable[..., Any]) -> Any:
    """Return what numba wants of an intrinsic, of a function that writes it, given a writer and the arguments."""

    def codegen(context: Any, builder: Any, own: Any, arguments: Any) -> Any:
        writer = _Writer(context, builder)
        found = write(writer, *(writer.pointer_or_value(*pair) for pair in zip(own.args, arguments, strict=True)))
        return context.get_dummy_value() if found is None else found

    return signature, codegen


@intrinsic
def turn(
    _typing: Any,
    rows: Any,
    first: Any,
    last: Any,
    n_features: Any,
    feature: Any,
    origin: Any,
    inverse: Any,
    turned: Any,
    at: Any,
    stride: Any,
) -> Any:
    """Write WIDTH features of a vector of rows, from `first` and `feature` on, in the frame and the features first.

    Those of feature j lie from ``turned[at + j * stride]`` on; the row `last` stands for all behind it. All are of the
    type of the rows.
    """
    lanes = LANES[str(turned.dtype)]

    def write(
        w: _Writer,
        rows: Any,
        first: Any,
        last: Any,
        d: Any,
        feature: Any,
        o: Any,
        s: Any,
        turned: Any,
        at: Any,
        stride: Any,
    ) -> None:
        b, vectors = w.builder, []
        for lane in range(lanes):
            row = b.add(first, w.number(lane))
            row = b.select(b.icmp_signed("<", row, last), row, last)
            vectors.append(w.load(w.at(rows, b.mul(row, d), feature), WIDTH))
        origin, inverse = w.load(w.at(o, feature), WIDTH), w.load(w.at(s, feature), WIDTH)
        if lanes > WIDTH:
            both = list(range(WIDTH)) * 2
            origin, inverse = w.shuffle(origin, origin, both), w.shuffle(inverse, inverse, both)
            vectors = [w.shuffle(vectors[i], vectors[i + WIDTH], list(range(lanes))) for i in range(WIDTH)]
        vectors = [b.fmul(b.fsub(vector, origin), inverse) for vector in vectors]
        step = 1
        while step < WIDTH:  # exchange the squares of `step` beside the diagonal
            for i in range(WIDTH):
                if not i & step:
                    one, other = vectors[i], vectors[i + step]
                    kept = [j if not j & step else lanes + j - step for j in range(lanes)]
                    vectors[i] = w.shuffle(one, other, kept)
                    vectors[i + step] = w.shuffle(one, other, [j + step for j in kept])
            step *= 2
        for j, vector in enumerate(vectors):
            w.store(vector, w.at(turned, at, b.mul(w.number(j), stride)))

    return _written(types.void(rows, first, last, n_features, feature, origin, inverse, turned, at, stride), write)


@intrinsic
def search(
    _typing: Any,
    turned: Any,
    at: Any,
    n_features: Any,
    panels: Any,
    first: Any,
    stop: Any,
    best: Any,
    second: Any,
    found: Any,
    to: Any,
) -> Any:
    """Compare the centres of some panels with the rows of a tile, VECTORS vectors of which `turned` has from `at` on.

    A panel has half the squared norms of CENTRES centres, then for each feature minus their coordinates. From `to` on,
    `best` has the least of ‖c‖²/2 − c·x so far, `found` the first centre that has it; in single precision `second` has
    the least but one.
    """
    kind = str(turned.dtype)
    lanes, (scalar, integer) = LANES[kind], _SCALARS[kind]

    def write(
        w: _Writer,
        turned: Any,
        at: Any,
        d: Any,
        panels: Any,
        first: Any,
        stop: Any,
        best: Any,
        second: Any,
        found: Any,
        to: Any,
    ) -> None:
        b = w.builder
        parts = [w.number(lanes * r) for r in range(VECTORS)]
        least = [w.variable(w.load(w.at(best, to, part), lanes)) for part in parts]
        next_to_it = [w.variable(w.load(w.at(second, to, part), lanes)) for part in parts] if lanes > WIDTH else []
        places = [w.variable(w.load(w.at(found, to, part), lanes)) for part in parts]
        size = b.mul(b.add(d, w.number(1)), w.number(CENTRES))
        sums = [[w.variable(ir.Constant(ir.VectorType(scalar, lanes), None)) for _ in parts] for _ in range(CENTRES)]
        with cgutils.for_range_slice(b, first, stop, w.number(1)) as (panel, _):
            numbers = w.at(panels, b.mul(panel, size))
            for c in range(CENTRES):
                norm = w.splat(b.load(w.at(numbers, c)), lanes)
                for one in sums[c]:
                    b.store(norm, one)
            with cgutils.for_range(b, d) as loop:
                row = w.at(turned, at, b.mul(loop.index, w.number(VECTORS * lanes)))
                rows = [w.load(w.at(row, part), lanes) for part in parts]
                centres = w.at(numbers, b.mul(b.add(loop.index, w.number(1)), w.number(CENTRES)))
                for c in range(CENTRES):
                    coordinate = w.splat(b.load(w.at(centres, c)), lanes)
                    for r, one in enumerate(sums[c]):
                        b.store(w.multiply_add(rows[r], coordinate, b.load(one)), one)
            for c in range(CENTRES):
                centre = b.add(b.mul(panel, w.number(CENTRES)), w.number(c))
                number = w.splat(b.trunc(centre, integer) if integer != _i64 else centre, lanes)
                for r in range(VECTORS):
                    value, before = b.load(sums[c][r]), b.load(least[r])
                    nearer = b.fcmp_ordered("<", value, before)
                    if next_to_it:
                        other = b.load(next_to_it[r])
                        closer = b.select(b.fcmp_ordered("<", value, other), value, other)
                        b.store(b.select(nearer, before, closer), next_to_it[r])
                    b.store(b.select(nearer, value, before), least[r])
                    b.store(b.select(nearer, number, b.load(places[r])), places[r])
        for variables, array in ((least, best), (next_to_it, second), (places, found)):
            for part, variable in zip(parts, variables, strict=False):
                w.store(b.load(variable), w.at(array, to, part))

    return _written(types.void(turned, at, n_features, panels, first, stop, best, second, found, to), write)


@intrinsic
def lead(
    _typing: Any,
    turned: Any,
    at: Any,
    n_features: Any,
    best: Any,
    second: Any,
    to: Any,
    slope: Any,  # noqa: ARG001 - of the type of `best`
    level: Any,  # noqa: ARG001 - as well
) -> Any:
    """Take from `second` what `best` has, and `slope` times the norm of the row, and `level`: for the rows of a tile.

    Rows, `best` and `second` are those of `search`.
    """
    lanes = LANES[str(turned.dtype)]

    def write(
        w: _Writer, turned: Any, at: Any, d: Any, best: Any, second: Any, to: Any, slope: Any, level: Any
    ) -> None:
        b = w.builder
        scalar = turned.type.pointee
        parts = [w.number(lanes * r) for r in range(VECTORS)]
        squares = [w.variable(ir.Constant(ir.VectorType(scalar, lanes), None)) for _ in parts]
        with cgutils.for_range(b, d) as loop:
            row = w.at(turned, at, b.mul(loop.index, w.number(VECTORS * lanes)))
            for part, one in zip(parts, squares, strict=True):
                numbers = w.load(w.at(row, part), lanes)
                b.store(w.multiply_add(numbers, numbers, b.load(one)), one)
        slopes, levels = w.splat(slope, lanes), w.splat(level, lanes)
        for part, one in zip(parts, squares, strict=True):
            place = w.at(second, to, part)
            gap = b.fsub(w.load(place, lanes), w.load(w.at(best, to, part), lanes))
            w.store(b.fsub(gap, w.multiply_add(slopes, w.square_root(b.load(one)), levels)), place)

    return _written(types.void(turned, at, n_features, best, second, to, turned.dtype, turned.dtype), write)


@intrinsic
def add_row(
    _typing: Any,
    rows: Any,
    at: Any,
    origin: Any,
    inverse: Any,
    centres: Any,
    offsets: Any,
    to: Any,
    weight: Any,
    n_features: Any,
) -> Any:
    """Add weight times (row − centre) to `offsets` and return its squared length, of a multiple of WIDTH features.

    The row begins at ``rows[at]``, its centre and the sums at `to`.
    """

    def write(
        w: _Writer, rows: Any, at: Any, o: Any, s: Any, centres: Any, offsets: Any, to: Any, weight: Any, d: Any
    ) -> Any:
        b = w.builder
        kind = ir.VectorType(_double, WIDTH)
        squares = w.variable(ir.Constant(kind, None))
        weights = w.splat(weight, WIDTH)
        with cgutils.for_range_slice(b, w.number(0), d, w.number(WIDTH)) as (feature, _):
            origin, inverse = w.load(w.at(o, feature), WIDTH), w.load(w.at(s, feature), WIDTH)
            row, place = w.in_frame(w.at(rows, at, feature), origin, inverse), w.at(offsets, to, feature)
            offset = b.fsub(row, w.load(w.at(centres, to, feature), WIDTH))
            w.store(w.multiply_add(weights, offset, w.load(place, WIDTH)), place)
            b.store(w.multiply_add(offset, offset, b.load(squares)), squares)
        total = b.load(squares)
        for half in (4, 2, 1):
            low, high = list(range(half)), list(range(half, 2 * half))
            total = b.fadd(w.shuffle(total, total, low), w.shuffle(total, total, high))
        return b.extract_element(total, ir.Constant(_i32, 0))

    return _written(types.float64(rows, at, origin, inverse, centres, offsets, to, weight, n_features), write)
