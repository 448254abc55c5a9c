"""The kernels in numba, for machines without a compiler: compiled at the first use and kept in a cache beside this file.

They do what native_body.h does. Every sum runs in one fixed order for one sample, and nothing is contracted or reordered
(no fastmath), so a result depends neither on the number of threads nor on the other samples of a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import binding, ir
from numba import prange
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from trustsnn.kernels.convolution import Geometry, channels_last
from trustsnn.kernels.lif import SURROGATES, Gradients, Layer

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]

SPAN = 2048  # neurons that a thread takes through all steps at a time: their state fits the L1 cache
RECOMPUTED = 1 << 16  # membranes of a span that the backward pass makes again: they fit the L2 cache
TOGETHER = 64  # pixels that share the weights of a chunk of outputs from the cache
LINE = 16  # floats of a line of the cache
BLOCK = 192  # inputs of a linear layer whose weights stay in the cache together
PLACES = 1024  # places of the padded gradients of the images that are taken together for the gradient of a weight
ENTRIES = 1 << 17  # and at most so many of their inputs
# Outputs whose sums are kept in registers: 64 floats are 4 of the 32 AVX-512 registers, but all 16 of AVX.
_WIDEST = 64 if binding.get_host_cpu_features().get("avx512f") else 32
_TRIANGULAR, _RECTANGULAR, _ATAN, _SIGMOID, _EXPONENTIAL, _STE = range(len(SURROGATES))

_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic

# numba's plain thread pool ends the process when two threads of Python start a parallel loop at once.
_ONE_AT_A_TIME = threading.Lock()


def _jit(**options: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` with this module's settings, without a cache on disk where there is no folder to write it to."""
    settings: dict[str, Any] = {"error_model": "numpy", "nogil": True, **options}

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            kernel: Callable[..., Any] = numba.njit(cache=True, **settings)(function)
        except RuntimeError:
            kernel = numba.njit(**settings)(function)
        return kernel

    return compiled


def _run(kernel: Callable[..., Any], *arguments: Any) -> None:
    """Call `kernel` with as many threads as torch would use."""
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        before = numba.get_num_threads()
        numba.set_num_threads(_threads(threads))
        try:
            kernel(*arguments)
        finally:
            numba.set_num_threads(before)
            # numba, when it starts its threads, sets OpenMP to all processors, and torch reads its own number from there.
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _threads(wanted: int) -> int:
    config: Any = numba.config
    return min(wanted, int(config.NUMBA_NUM_THREADS))


def _rows_adder(width: int) -> Any:
    """sums[to:][:width] += value[i] * table[base + place[i]] for i from `low` to `high`, in this order.

    `table` has rows of `width` floats. Written in LLVM's own terms, because numba has no way to say that the sums stay
    in registers meanwhile; that makes it two to three times faster.
    """

    @_intrinsic
    def add_rows(
        typing: Any, sums: Any, to: Any, table: Any, base: Any, place: Any, value: Any, low: Any, high: Any
    ) -> tuple[Any, Any]:
        index, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), width)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), None)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def data(at: int) -> Any:
                return context.make_array(signature.args[at])(context, builder, arguments[at]).data

            def vector_at(pointer: Any, at: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())

            to, base, low, high = (arguments[at] for at in (1, 3, 6, 7))
            sums, table, places, values = (data(at) for at in (0, 2, 4, 5))
            target = vector_at(sums, to)
            initial = builder.load(target, align=4)
            before, loop, after = builder.block, builder.append_basic_block("rows"), builder.append_basic_block("added")
            builder.cbranch(builder.icmp_signed("<", low, high), loop, after)

            builder.position_at_end(loop)
            i, total = builder.phi(index), builder.phi(vector)
            place = builder.add(base, builder.sext(builder.load(builder.gep(places, [i])), index))
            row = builder.load(vector_at(table, builder.mul(place, ir.Constant(index, width))), align=4)
            factor = builder.insert_element(
                ir.Constant(vector, ir.Undefined), builder.load(builder.gep(values, [i])), ir.Constant(ir.IntType(32), 0)
            )
            factors = builder.shuffle_vector(factor, ir.Constant(vector, ir.Undefined), zeros)
            more = builder.fadd(total, builder.fmul(factors, row))
            following = builder.add(i, ir.Constant(index, 1))
            builder.cbranch(builder.icmp_signed("<", following, high), loop, after)
            for phi, first, later in ((i, low, following), (total, initial, more)):
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)

            builder.position_at_end(after)
            result = builder.phi(vector)
            result.add_incoming(initial, before)
            result.add_incoming(more, loop)
            builder.store(result, target, align=4)
            return context.get_dummy_value()

        long = numba.types.int64
        return numba.types.void(sums, long, table, long, place, value, long, long), generate

    return add_rows


_add_16, _add_32, _add_64 = _rows_adder(16), _rows_adder(32), _rows_adder(64)


class Neuron(NamedTuple):
    """A `Layer` in single precision, for numba. A membrane of at least `limit` fires."""

    leak: np.float32
    threshold: np.float32
    limit: np.float32
    gain: np.float32
    initial: np.float32
    hard: bool
    detach: bool
    leaky: bool


def _neuron(layer: Layer) -> Neuron:
    leak, threshold, gain, initial = (np.float32(v) for v in (layer.leak, layer.threshold, layer.gain, layer.initial))
    limit = np.nextafter(threshold, np.float32(np.inf)) if layer.strict else threshold
    return Neuron(leak, threshold, limit, gain, initial, layer.hard, layer.detach, layer.leaky)


def _flat(sequence: Tensor) -> Floats:
    """[T, B, ...] as [T, all neurons of a step] in the order of the memory."""
    size = sequence[0].numel() if len(sequence) else 0
    return sequence.detach().as_strided((len(sequence), size), (size, 1)).numpy()


@_jit()
def _empty(count: int) -> Floats:
    """Scratch memory that begins with a line of the cache: a vector over the border of two costs as much as two."""
    memory = np.empty(count + LINE, np.float32)
    skipped = (-memory.ctypes.data // 4) % LINE
    return memory[skipped : skipped + count]


@_jit()
def _row(rows: Floats, t: int, begin: int, count: int) -> Floats:
    """Part of the row of step `t`, or of the only row where one serves all steps."""
    return rows[t if len(rows) > 1 else 0, begin : begin + count]


@_jit()
def _fire(
    n: Neuron, steps: int, current: Floats, begin: int, spikes: Floats, to: int, membrane: Floats, kept: int, count: int
) -> None:
    """All steps of a span of neurons. The spans begin at column `begin` of `current`, `to` of `spikes`, `kept` of `membrane`."""
    state = _empty(count)
    state[:] = n.initial
    for t in range(steps):
        x, s, u = _row(current, t, begin, count), _row(spikes, t, to, count), _row(membrane, t, kept, count)
        for i in range(count):
            before = state[i] * n.leak + x[i] * n.gain
            fired = before >= n.limit
            u[i] = before
            s[i] = np.float32(1) if fired else np.float32(0)
            rest = np.float32(0) if n.hard else before - n.threshold
            state[i] = rest if fired else before


@_jit(parallel=True)
def _forward(n: Neuron, current: Floats, spikes: Floats, membrane: Floats) -> None:
    steps, size = spikes.shape
    for item in prange((size + SPAN - 1) // SPAN):
        begin = item * SPAN
        count = min(SPAN, size - begin)
        if len(membrane):
            _fire(n, steps, current, begin, spikes, begin, membrane, begin, count)
        else:
            _fire(n, steps, current, begin, spikes, begin, _empty(count).reshape(1, count), 0, count)


def lif_forward(current: Tensor, spikes: Tensor, membrane: Tensor, layer: Layer) -> None:
    """Fill `spikes` [T, B, ...] and, unless it is empty, `membrane` with u before the spike. `current` has T steps, or one
    for a constant current. All have the same memory order, each step in one piece."""
    if spikes.numel():
        _run(_forward, _neuron(layer), _flat(current), _flat(spikes), _flat(membrane))


@_jit()
def _exponential(x: np.float32) -> Any:
    """exp(x) for x <= 0 in single precision (Cephes' expf): LLVM vectorises it, unlike a call of the library."""
    x = max(x, np.float32(-87))
    n = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
    whole = np.float32(n)
    r = x - whole * np.float32(0.693359375) - whole * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@_jit()
def _derive(kind: int, width: np.float32, threshold: np.float32, u: Floats, derivative: Floats) -> None:
    """The surrogate derivative at each membrane, see trustsnn.neurons.surrogates."""
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    if kind == _TRIANGULAR:
        for i in range(len(u)):
            derivative[i] = max(width - abs(u[i] - threshold), zero) * (one / (width * width))
    elif kind == _RECTANGULAR:
        for i in range(len(u)):
            derivative[i] = half / width if abs(u[i] - threshold) < width else zero
    elif kind == _ATAN:
        for i in range(len(u)):
            z = (u[i] - threshold) * (np.float32(1.57079632679) / width)
            derivative[i] = one / (z * z + one) * (half / width)
    elif kind == _SIGMOID:
        for i in range(len(u)):
            e = _exponential(-abs(u[i] - threshold) / width)
            rate = one / (e + one)
            derivative[i] = e * rate * rate / width
    elif kind == _EXPONENTIAL:
        for i in range(len(u)):
            derivative[i] = _exponential(-abs(u[i] - threshold) / width) / width
    else:
        derivative[:] = one


@_jit()
def _differentiate(
    n: Neuron, kind: int, width: np.float32, current: Floats, membrane: Floats, kept: int, to_spikes: Floats, out: Floats,
    begin: int, count: int, sums: bool,
) -> tuple[float, float]:  # fmt: skip
    """A span of neurons from the last step to the first, see trustsnn.neurons.estimator.STBP. `carried` is dLoss/dv_t."""
    steps, zero = len(to_spikes), np.float32(0)
    carried, through, to_membrane = _empty(count), _empty(count), _empty(count)
    carried[:] = zero
    leaks, thresholds = np.zeros(count if sums else 0), np.zeros(count if sums else 0)
    by_membrane = np.float32(1) if n.hard and not n.detach else zero
    by_threshold = zero if n.hard or n.detach else n.threshold
    for t in range(steps - 1, -1, -1):
        u, g, result = _row(membrane, t, kept, count), _row(to_spikes, t, begin, count), _row(out, t, begin, count)
        _derive(kind, width, n.threshold, u, through)
        for i in range(count):
            c = carried[i]
            through[i] *= g[i] - c * (u[i] * by_membrane + by_threshold)
            to_membrane[i] = through[i] + c - (c if n.hard and u[i] >= n.limit else zero)
        if sums:
            earlier = _row(membrane, max(t - 1, 0), kept, count)
            for i in range(count):
                rest = zero if n.hard else earlier[i] - n.threshold
                after = rest if earlier[i] >= n.limit else earlier[i]
                leaks[i] += to_membrane[i] * (after if t else n.initial)
                thresholds[i] -= through[i] + (zero if n.hard or u[i] < n.limit else carried[i])
            if t == 0:
                for i in range(count):
                    thresholds[i] += to_membrane[i] * (n.leak * n.initial / n.threshold)
            if n.leaky:
                x = _row(current, t, begin, count)
                for i in range(count):
                    leaks[i] -= to_membrane[i] * x[i]
        if len(out) == steps:
            for i in range(count):
                result[i] = to_membrane[i] * n.gain
                carried[i] = to_membrane[i] * n.leak
        else:
            for i in range(count):
                result[i] = (zero if t == steps - 1 else result[i]) + to_membrane[i] * n.gain
                carried[i] = to_membrane[i] * n.leak
    to_leak = to_threshold = 0.0
    for i in range(len(leaks)):
        to_leak += leaks[i]
        to_threshold += thresholds[i]
    return to_leak, to_threshold


@_jit(parallel=True)
def _backward(
    n: Neuron, kind: int, width: np.float32, current: Floats, membrane: Floats, to_spikes: Floats, out: Floats, span: int,
    totals: Doubles,
) -> None:  # fmt: skip
    """`totals` [2, samples, spans of a sample] of leak and threshold, or [2, 1, 0] if they are not asked for."""
    steps, size = len(to_spikes), to_spikes.shape[1] // totals.shape[1]
    sums = totals.shape[2] > 0
    spans = (size + span - 1) // span
    for item in prange(totals.shape[1] * spans):
        sample, part = item // spans, item % spans
        begin, count = sample * size + part * span, min(span, size - part * span)
        made, kept = membrane, begin
        if not len(membrane):
            made, kept = _empty(steps * count).reshape(steps, count), 0
            _fire(n, steps, current, begin, _empty(count).reshape(1, count), 0, made, 0, count)
        to_leak, to_threshold = _differentiate(n, kind, width, current, made, kept, to_spikes, out, begin, count, sums)
        if sums:
            totals[0, sample, part], totals[1, sample, part] = to_leak, to_threshold


def lif_backward(
    current: Tensor | None,
    membrane: Tensor | None,
    to_spikes: Tensor,
    out: Tensor,
    layer: Layer,
    surrogate: str,
    width: float,
    *,
    sums: bool,
) -> Gradients:
    """dLoss/dcurrent into `out`, which has one step where the current is constant, and per sample dLoss/dleak and
    dLoss/dthreshold if asked for; see trustsnn.kernels.lif.backward. Without a membrane it is made again from `current`."""
    if current is None and (membrane is None or (sums and layer.leaky)):
        raise ValueError("A membrane that was not kept and the leak's gradient of a leaky gain need the current.")
    steps, batch = to_spikes.shape[:2]
    span = SPAN if membrane is not None else min(SPAN, max(64, RECOMPUTED // max(1, steps) // 16 * 16))
    size = to_spikes[0].numel() // batch if steps and batch else 0
    totals = np.zeros((2, batch, -(-size // span)) if sums else (2, 1, 0))
    if to_spikes.numel():
        absent = to_spikes.new_empty(0)
        kept = [_flat(tensor if tensor is not None else absent) for tensor in (current, membrane)]
        kind = SURROGATES.index(surrogate)
        _run(_backward, _neuron(layer), kind, np.float32(width), *kept, _flat(to_spikes), _flat(out), span, totals)
    else:
        out.zero_()
    leak, threshold = torch.from_numpy(totals.sum(-1))
    return Gradients(out, leak if sums else None, threshold if sums else None)


class Shape(NamedTuple):
    """A convolution of images [images, height, width, inputs] to [images, rows, columns, outputs], for numba."""

    images: int
    height: int
    width: int
    inputs: int
    rows: int
    columns: int
    outputs: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    top: int
    left: int
    dilation_h: int
    dilation_w: int
    groups: int
    chunk: int  # outputs of a group that are summed together
    threads: int


def _shape(images: Tensor, out: Tensor, kernel: tuple[int, int], geometry: Geometry) -> Shape:
    each = out.shape[1] // geometry.groups
    chunk = min(_WIDEST, 64 if each > 32 else 32 if each > 16 else 16)
    return Shape(
        images=images.shape[0], height=images.shape[2], width=images.shape[3], inputs=images.shape[1],
        rows=out.shape[2], columns=out.shape[3], outputs=out.shape[1], kernel_h=kernel[0], kernel_w=kernel[1],
        stride_h=geometry.stride[0], stride_w=geometry.stride[1], top=geometry.padding[0], left=geometry.padding[1],
        dilation_h=geometry.dilation[0], dilation_w=geometry.dilation[1], groups=geometry.groups, chunk=chunk,
        threads=_threads(torch.get_num_threads()),
    )  # fmt: skip


def _pixels(images: Tensor) -> Floats:
    """The memory of `images`, channels last, as one row."""
    return images.detach().as_strided((images.numel(),), (1,)).numpy()


@_jit()
def _add_rows(
    width: int, sums: Floats, to: int, table: Floats, base: int, place: Ints, value: Floats, low: int, high: int
) -> None:
    if width == 64:
        _add_64(sums, to, table, base, place, value, low, high)
    elif width == 32:
        _add_32(sums, to, table, base, place, value, low, high)
    else:
        _add_16(sums, to, table, base, place, value, low, high)


@_jit()
def _list(s: Shape, columns: int, block: int, images: Floats, first: int, start: Ints, place: Ints, value: Floats) -> None:
    """List the active inputs of one image by row, block of inputs and column of the padded image.

    `place` is column * inputs of a group + input, `start` where each column of [rows][blocks][columns + 1] begins.
    """
    high = (s.rows - 1) * s.stride_h + s.dilation_h * (s.kernel_h - 1) + 1
    wide = (columns - 1) * s.stride_w + s.dilation_w * (s.kernel_w - 1) + 1
    inputs = s.inputs // s.groups
    count, slot = np.uint64(0), 0  # numba looks whether a signed index counts from the end, at every access
    for row in range(high):
        y = row - s.top
        for group in range(s.groups):
            for begin in range(0, inputs, block):
                for column in range(wide):
                    start[slot] = count
                    slot += 1
                    x = column - s.left
                    if 0 <= y < s.height and 0 <= x < s.width:
                        at = np.uint64(first + (y * s.width + x) * s.inputs + group * inputs)
                        for i in range(np.uint64(begin), np.uint64(min(begin + block, inputs))):
                            # Without a branch, which the processor could not foresee.
                            place[count] = column * inputs + np.int64(i)
                            value[count] = images[at + i]
                            count += np.uint64(images[at + i] != 0)
                start[slot] = count
                slot += 1


@_jit(parallel=True)
def _convolve(s: Shape, images: Floats, weight: Floats, bias: Floats, out: Floats) -> None:
    """`weight` is [groups][chunks][kernel_h][kernel_w][inputs][chunk], `bias` [outputs]."""
    inputs, each, chunk = s.inputs // s.groups, s.outputs // s.groups, s.chunk
    chunks = (each + chunk - 1) // chunk
    # Neighbouring columns of the kernel are neighbours in the lists too, unless dilation parts them. The blocks of inputs
    # of a kernel of more than one column would change the order of the sum.
    runs, run = (1, s.kernel_w) if s.dilation_w == 1 else (s.kernel_w, 1)
    block = min(inputs, BLOCK) if s.kernel_w == 1 else inputs
    blocks = (inputs + block - 1) // block
    for worker in prange(s.threads):
        high = (s.rows - 1) * s.stride_h + s.dilation_h * (s.kernel_h - 1) + 1
        most = (s.columns - 1) * s.stride_w + s.dilation_w * (s.kernel_w - 1) + 1
        start = np.empty(high * s.groups * blocks * (most + 1), np.int32)
        place = np.empty(s.height * s.width * s.inputs + 1, np.int32)
        value = np.empty(s.height * s.width * s.inputs + 1, np.float32)
        sums = _empty(TOGETHER * chunk)
        for image in range(worker * s.images // s.threads, (worker + 1) * s.images // s.threads):
            # The last row of the pixels of a linear layer may be shorter.
            columns = min(s.columns, len(out) // s.outputs - image * s.columns)
            wide = (columns - 1) * s.stride_w + s.dilation_w * (s.kernel_w - 1) + 1
            _list(s, columns, block, images, image * s.height * s.width * s.inputs, start, place, value)
            for item in range(s.groups * chunks):
                group = item // chunks
                to = group * each + item % chunks * chunk
                room = min(chunk, (group + 1) * each - to)
                for begin in range(0, s.rows * columns, TOGETHER):
                    end = min(begin + TOGETHER, s.rows * columns)
                    sums[:] = 0
                    for p in range(end - begin):
                        for o in range(room):
                            sums[p * chunk + o] = bias[to + o]
                    for part in range(s.kernel_h * blocks):
                        ky = part // blocks
                        row, column = begin // columns, begin % columns
                        for p in range(end - begin):
                            line = (row * s.stride_h + ky * s.dilation_h) * s.groups * blocks + group * blocks + part % blocks
                            for k in range(runs):
                                first = column * s.stride_w + k * s.dilation_w
                                base = ((item * s.kernel_h + ky) * s.kernel_w + k - first) * inputs
                                slot = line * (wide + 1) + first
                                _add_rows(chunk, sums, p * chunk, weight, base, place, value, start[slot], start[slot + run])
                            column += 1
                            if column == columns:
                                row, column = row + 1, 0
                    for p in range(end - begin):
                        here, there = np.uint64(p * chunk), np.uint64((image * s.rows * s.columns + begin + p) * s.outputs + to)
                        for o in range(np.uint64(room)):
                            out[there + o] = sums[here + o]


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The convolution of `images` [N, I, H, W] with `weight` [O, I / groups, h, w], [N, O, H', W'] channels last.

    Adds the weights of the active inputs alone, in the order kernel row, kernel column, input.
    """
    images = channels_last(images.detach())
    outputs, inputs, high, wide = weight.shape
    rows, columns = geometry.output((images.shape[2], images.shape[3]), (high, wide))
    out = torch.empty((len(images), outputs, rows, columns), memory_format=torch.channels_last)
    if not out.numel():
        return out
    s = _shape(images, out, (high, wide), geometry)
    if (high, wide, *geometry.stride, *geometry.padding) == (1, 1, 1, 1, 0, 0):
        # Every pixel is for itself (a linear layer): cut all of them, whatever their image, into rows that share weights.
        pixels = len(images) * rows * columns
        size = min(TOGETHER, max(16, -(-pixels // (4 * s.threads))))
        s = s._replace(images=-(-pixels // size), height=1, rows=1, width=size, columns=size)
    each = outputs // s.groups
    chunks = -(-each // s.chunk)
    weight, missing = weight.detach().reshape(s.groups, each, -1), chunks * s.chunk - each
    if missing:
        weight = F.pad(weight, (0, 0, 0, missing))
    packed = torch.empty((s.groups, chunks, high, wide, inputs, s.chunk))
    packed.copy_(weight.view(s.groups, chunks, s.chunk, inputs, high, wide).permute(0, 1, 4, 5, 3, 2))
    start = bias.detach().contiguous() if bias is not None else torch.zeros(outputs)
    _run(_convolve, s, _pixels(images), packed.view(-1).numpy(), start.numpy(), _pixels(out))
    return out


@_jit()
def _list_channels(
    s: Shape, images: Floats, first: int, last: int, low: int, high: int, apart: int, ends: Ints, place: Ints, value: Floats
) -> None:
    """List the active inputs of some channels of some images by channel, `apart` entries for each, as places in the padded
    gradient."""
    height, width = s.height + s.dilation_h * (s.kernel_h - 1), s.width + s.dilation_w * (s.kernel_w - 1)
    for i in range(high - low):
        ends[i] = i * apart
    for image in range(first, last):
        for y in range(s.height):
            for x in range(s.width):
                here = ((image - first) * height + y) * width + x
                at = np.uint64(((image * s.height + y) * s.width + x) * s.inputs + low)
                for i in range(np.uint64(high - low)):
                    slot = np.uint64(ends[i])
                    place[slot] = here
                    value[slot] = images[at + i]
                    ends[i] = slot + np.uint64(images[at + i] != 0)


@_jit()
def _spread(s: Shape, to_out: Floats, first: int, last: int, begin: int, count: int, spread: Floats) -> None:
    """dLoss/dout of `count` outputs from `begin` of some images as [places][chunk], padded, with zeros between strides."""
    border_h, border_w = s.dilation_h * (s.kernel_h - 1), s.dilation_w * (s.kernel_w - 1)
    height, width = s.height + border_h, s.width + border_w
    spread[:] = 0
    for image in range(first, last):
        for row in range(s.rows):
            y = row * s.stride_h + border_h - s.top
            for column in range(s.columns):
                x = column * s.stride_w + border_w - s.left
                if 0 <= y < height and 0 <= x < width:
                    at = np.uint64(((image * s.rows + row) * s.columns + column) * s.outputs + begin)
                    to = np.uint64((((image - first) * height + y) * width + x) * s.chunk)
                    for o in range(np.uint64(count)):
                        spread[to + o] = to_out[at + o]


@_jit(parallel=True)
def _weight_gradient(s: Shape, images: Floats, to_out: Floats, gradient: Floats, together: int, shares: int, splits: int) -> None:
    """`gradient` is [groups][chunks][kernel_h][kernel_w][inputs][chunk].

    Each of `shares` * `splits` threads takes some of the inputs and some of the chunks of outputs through all images.
    """
    inputs, each = s.inputs // s.groups, s.outputs // s.groups
    chunks, taps = (each + s.chunk - 1) // s.chunk, s.kernel_h * s.kernel_w
    for worker in prange(shares * splits):
        share, split = worker // splits, worker % splits
        low, high = share * s.inputs // shares, (share + 1) * s.inputs // shares
        width = s.width + s.dilation_w * (s.kernel_w - 1)
        places = together * (s.height + s.dilation_h * (s.kernel_h - 1)) * width
        apart = together * s.height * s.width + 17  # not a power of two, which would crowd the lists into few sets of the cache
        ends = np.empty(high - low, np.int32)
        place, value = np.empty((high - low) * apart, np.int32), np.empty((high - low) * apart, np.float32)
        spread = _empty(places * s.chunk)
        for first in range(0, s.images, together):
            last = min(first + together, s.images)
            _list_channels(s, images, first, last, low, high, apart, ends, place, value)
            for part in range(split * s.groups * chunks // splits, (split + 1) * s.groups * chunks // splits):
                group, to = part // chunks, part % chunks * s.chunk
                begin, end = max(low, group * inputs), min(high, (group + 1) * inputs)
                if begin < end:
                    _spread(s, to_out, first, last, group * each + to, min(s.chunk, each - to), spread)
                for channel in range(begin, end):
                    for tap in range(taps):
                        y = (s.kernel_h - 1 - tap // s.kernel_w) * s.dilation_h
                        x = (s.kernel_w - 1 - tap % s.kernel_w) * s.dilation_w
                        row = (part * taps + tap) * inputs + channel - group * inputs
                        start = (channel - low) * apart
                        _add_rows(
                            s.chunk, gradient, row * s.chunk, spread, y * width + x, place, value, start, ends[channel - low]
                        )


def weight_gradient(images: Tensor, to_out: Tensor, kernel: tuple[int, int], geometry: Geometry) -> Tensor:
    """dLoss/dweight [O, I / groups, h, w] of `convolve` from dLoss/dout [N, O, H', W'] and the active inputs alone."""
    images, to_out = channels_last(images.detach()), channels_last(to_out.detach())
    s = _shape(images, to_out, kernel, geometry)
    inputs, each = s.inputs // s.groups, s.outputs // s.groups
    chunks = -(-each // s.chunk)
    gradient = torch.zeros((s.groups, chunks, *kernel, inputs, s.chunk))
    if images.numel() and to_out.numel():
        pixels = s.height * s.width
        together = min(s.images, max(1, min(PLACES // pixels, ENTRIES // (pixels * s.inputs))))
        shares = min(s.threads, s.inputs)
        splits = min(s.threads // shares, s.groups * chunks)
        _run(_weight_gradient, s, _pixels(images), _pixels(to_out), gradient.view(-1).numpy(), together, shares, splits)
    gradient = gradient.permute(0, 1, 5, 4, 2, 3).reshape(s.groups, chunks * s.chunk, inputs, *kernel)
    return gradient[:, :each].reshape(s.outputs, inputs, *kernel)
