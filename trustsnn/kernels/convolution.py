"""Event-driven convolution: what the active inputs add, and nothing else. A linear layer is the convolution of 1x1 images.

The native kernel takes each image for itself. It adds the weight rows of the active inputs, or multiplies everything out
where too many inputs are active; both add in the same order, so for finite weights the choice changes the time and not one
bit of the result, and neither do the other images of the batch or the number of threads.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trustsnn.kernels import lif
from trustsnn.kernels.lif import Keep, Layer
from trustsnn.kernels.native import Shape, library, required

# Above this share of active inputs multiplying everything out is faster (measured, benchmarks/scaling.py).
DENSE_ABOVE = 0.65

Method = Literal["sum", "half", "tiles", "half tiles", "few"]
"""How a convolution is computed: "sum" adds what the active inputs add; "half" (for gradients) multiplies everything out in
bfloat16, summed in float32, good to .3 %; "tiles" is Winograd's F(4x4, 3x3), a fourth of the products whatever the density,
good to 2e-6, and "half tiles" the same with products in bfloat16 (for gradients), good to 3 %; "few" takes neighbouring
pixels at a time where there are no more than 4 outputs."""


@dataclass(frozen=True)
class Geometry:
    """Stride, padding (before the first row and column, and as much after the last), dilation and groups."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the result for images of `size`."""
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(size, self.padding, self.dilation, kernel, self.stride, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Packed:
    """A weight [O, I / groups, h, w] laid out for a kernel."""

    data: Tensor
    shape: tuple[int, int, int, int]
    method: Method


def tiles(weight: Tensor, geometry: Geometry, *, transposed: bool = False) -> bool:
    """Whether Winograd's convolution serves: 3x3 with stride 1 and enough channels, a multiple of 16 of them read."""
    outputs, inputs, high, wide = weight.shape
    plain = (high, wide, *geometry.stride, *geometry.dilation, geometry.groups) == (3, 3, 1, 1, 1, 1, 1)
    return plain and min(outputs, inputs) >= 32 and (outputs if transposed else inputs) % 16 == 0


def few(weight: Tensor, geometry: Geometry, *, transposed: bool = False) -> bool:
    """Whether "few" serves: at most 4 outputs in one group, of a convolution with stride 1 or the gradient of any."""
    return geometry.groups == 1 and weight.shape[transposed] <= 4 and (transposed or geometry.stride == (1, 1))


def pack(weight: Tensor, groups: int = 1, *, transposed: bool = False, method: Method = "sum") -> Packed:
    """Lay out `weight` for `convolve` or, `transposed`, for `input_gradient`, by `method`."""
    shape = tuple(weight.shape)
    outputs, inputs, high, wide = shape
    if transposed:
        outputs, inputs = groups * inputs, outputs // groups
    chunk = _chunk(outputs // groups)
    chunks = -(-(outputs // groups) // chunk)
    if method == "few":
        turned = weight.transpose(0, 1).flip(2, 3) if transposed else weight
        return Packed(turned.permute(2, 3, 1, 0).contiguous(), shape, method)  # type: ignore[arg-type]
    if method == "half":
        turned = weight.transpose(0, 1).flip(2, 3) if transposed else weight
        turned = F.pad(turned, (0, 0, 0, 0, 0, inputs % 2, 0, -outputs % chunk))
        data = turned.reshape(chunks, chunk, -1, 2, high, wide).permute(0, 4, 5, 2, 1, 3).to(torch.bfloat16)
        return Packed(data.contiguous(), shape, method)  # type: ignore[arg-type]
    block = _block(inputs)
    tiled = method in ("tiles", "half tiles")
    size = (36, chunks, inputs, chunk) if tiled else (groups, chunks, high, -(-inputs // block), wide, block, chunk)
    data = torch.empty(size, dtype=torch.bfloat16 if method == "half tiles" else torch.float32)
    weight = weight.detach().contiguous()
    form = Shape(
        inputs=inputs * groups, outputs=outputs, kernel_h=high, kernel_w=wide, groups=groups, block=block, chunk=chunk,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    known = required()
    lay_out = {"tiles": known.trustsnn_pack_tiles, "half tiles": known.trustsnn_pack_half_tiles}.get(method, known.trustsnn_pack)
    lay_out(ctypes.byref(form), weight.data_ptr(), transposed, data.data_ptr())
    return Packed(data, shape, method)  # type: ignore[arg-type]


def has_half() -> bool:
    """Whether this processor multiplies bfloat16 (AVX512-BF16) and the native kernels are in use."""
    found = library()
    return found is not None and bool(found.trustsnn_has_bf16())


def channels_last(images: Tensor) -> Tensor:
    """`images` [N, C, H, W] with the channels of a pixel side by side, which the strides also say of a single channel: torch's
    convolution goes by them in the memory order of its result."""
    if images.shape[1] == 1:
        return images.contiguous().squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return images.contiguous(memory_format=torch.channels_last)


def convolve(images: Tensor, packed: Packed, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The convolution of `images` [N, I, H, W] with the packed weight, [N, O, H', W'], native kernel only."""
    images = channels_last(images)
    outputs, _, high, wide = packed.shape
    rows, columns = geometry.output((images.shape[2], images.shape[3]), (high, wide))
    out = torch.empty((len(images), outputs, rows, columns), memory_format=torch.channels_last)
    shape = _shape(images, out, packed.shape, geometry)
    bias = bias.contiguous() if bias is not None else None
    if out.numel():
        _run(shape, images, packed, bias, out)
    return out


def fire(
    images: Tensor, packed: Packed, bias: Tensor | None, geometry: Geometry, steps: int, given: int, layer: Layer, keep: Keep
) -> tuple[Tensor, Tensor]:
    """Spikes [steps, B, O, H', W'] of neurons whose current is the convolution of `images` [given * B, I, H, W], and the kept membrane,
    as `convolve` and then `lif.forward` give them, the current itself being written nowhere. Weights packed by "sum" and `keep` not
    "recompute"; native kernel only."""
    images = channels_last(images)
    outputs, _, high, wide = packed.shape
    rows, columns = geometry.output((images.shape[2], images.shape[3]), (high, wide))
    batch = len(images) // given
    spikes = torch.empty((steps, batch, rows, columns, outputs)).movedim(-1, 2)
    membrane = images.new_empty(0)
    if keep != "nothing":
        membrane = lif.sequence_like(spikes, steps, torch.bfloat16 if keep == "half" else None)
    if spikes.numel():
        shape = _shape(images, spikes[0], packed.shape, geometry)
        neuron = lif.neuron_of(spikes[:given], steps, layer, membrane.dtype)
        where = (bias.contiguous().data_ptr() if bias is not None else None), (membrane.data_ptr() if keep != "nothing" else None)
        required().trustsnn_convolve_fire(
            ctypes.byref(shape), ctypes.byref(neuron), images.data_ptr(), packed.data.data_ptr(), where[0], spikes.data_ptr(), where[1]
        )  # fmt: skip
    return spikes, membrane


def input_gradient(to_out: Tensor, packed: Packed, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """dLoss/dimages [N, I, H, W] of images of `size` from dLoss/dout, with a transposed packed weight, native kernel only."""
    to_out = channels_last(to_out)
    outputs, inputs, high, wide = packed.shape
    out = torch.empty((len(to_out), inputs * geometry.groups, *size), memory_format=torch.channels_last)
    (down, across), (top, left) = geometry.dilation, geometry.padding
    before = (down * (high - 1) - top, across * (wide - 1) - left)
    turned = Geometry((1, 1), before, geometry.dilation, geometry.groups)
    shape = _shape(to_out, out, (inputs * geometry.groups, outputs // geometry.groups, high, wide), turned)
    shape.up_h, shape.up_w = geometry.stride
    if out.numel():
        _run(shape, to_out, packed, None, out)
    return out


def _run(shape: Shape, images: Tensor, packed: Packed, bias: Tensor | None, out: Tensor) -> None:
    known, where = required(), bias.data_ptr() if bias is not None else None
    arguments = (ctypes.byref(shape), images.data_ptr(), packed.data.data_ptr())
    if packed.method == "half":
        known.trustsnn_convolve_bf16(*arguments, out.data_ptr())
    elif packed.method in ("tiles", "half tiles"):
        multiply = known.trustsnn_winograd if packed.method == "tiles" else known.trustsnn_winograd_bf16
        multiply(*arguments, where, out.data_ptr())
    elif packed.method == "few":
        known.trustsnn_convolve_few(*arguments, where, out.data_ptr())
    else:
        known.trustsnn_convolve(*arguments, where, out.data_ptr())


def weight_gradient(images: Tensor, to_out: Tensor, kernel: tuple[int, int], geometry: Geometry) -> Tensor:
    """dLoss/dweight [O, I / groups, h, w] from the active inputs of `images` alone, native kernel only."""
    images, to_out = channels_last(images), channels_last(to_out)
    size = (to_out.shape[1], images.shape[1] // geometry.groups, *kernel)
    if not to_out.numel():
        return torch.zeros(size)
    gradient = torch.empty(size)
    shape = _shape(images, to_out, size, geometry)
    required().trustsnn_weight_gradient(ctypes.byref(shape), images.data_ptr(), to_out.data_ptr(), gradient.data_ptr())
    return gradient


def pool(images: Tensor) -> Tensor:
    """The mean of each 2x2 pixels of `images` [N, C, H, W], [N, C, H // 2, W // 2], native kernel only."""
    images = channels_last(images)
    rows, columns = images.shape[2] // 2, images.shape[3] // 2
    out = torch.empty((len(images), images.shape[1], rows, columns), memory_format=torch.channels_last)
    shape = _shape(images, out, (images.shape[1], images.shape[1], 2, 2), Geometry())
    if out.numel():
        required().trustsnn_pool(ctypes.byref(shape), images.data_ptr(), out.data_ptr())
    return out


def pool_gradient(to_out: Tensor, size: tuple[int, int]) -> Tensor:
    """dLoss/dimages of `pool` for images of `size`."""
    to_out = channels_last(to_out)
    out = torch.empty((*to_out.shape[:2], *size), memory_format=torch.channels_last)
    shape = _shape(out, to_out, (to_out.shape[1], to_out.shape[1], 2, 2), Geometry())
    if out.numel():
        required().trustsnn_pool_gradient(ctypes.byref(shape), to_out.data_ptr(), out.data_ptr())
    return out


def density(images: Tensor) -> float:
    """The share of entries that are not zero."""
    found = library()
    in_one_piece = images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)
    if found is None or images.dtype != torch.float32 or not in_one_piece:
        active = int(torch.count_nonzero(images))
    else:
        active = found.trustsnn_count(images.data_ptr(), images.numel(), torch.get_num_threads())
    return active / max(1, images.numel())


def _chunk(outputs: int) -> int:
    return 64 if outputs > 32 else 32 if outputs > 16 else 16


def _block(inputs: int) -> int:
    """Inputs that one word of bits says of whether they are active."""
    return min(inputs, 64)


def _shape(images: Tensor, out: Tensor, weight: tuple[int, ...], geometry: Geometry) -> Shape:
    outputs, inputs, high, wide = weight
    return Shape(
        images=images.shape[0], height=images.shape[2], width=images.shape[3], inputs=images.shape[1],
        rows=out.shape[2], columns=out.shape[3], outputs=out.shape[1], kernel_h=high, kernel_w=wide,
        stride_h=geometry.stride[0], stride_w=geometry.stride[1], up_h=1, up_w=1,
        top=geometry.padding[0], left=geometry.padding[1],
        dilation_h=geometry.dilation[0], dilation_w=geometry.dilation[1], groups=geometry.groups,
        block=_block(inputs), chunk=_chunk(outputs // geometry.groups),
        threads=torch.get_num_threads(), dense_above=DENSE_ABOVE,
    )  # fmt: skip
