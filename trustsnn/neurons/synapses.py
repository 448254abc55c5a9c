"""The weights before a layer of neurons: convolutions and linear maps that cost what their active inputs cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trustsnn.errors import ModelContractError
from trustsnn.kernels import accelerated, convolution
from trustsnn.kernels.convolution import Geometry, Method, Packed
from trustsnn.neurons.operation import Gradient, Operation

# Above this share of active inputs a layer that is in training goes through the dense convolution (benchmarks/scaling.py).
_SPARSE = {"native": 0.5, "numba": 0.2}
# The same for a linear layer, and how many samples it takes to pay for laying out its weights.
_SPARSE_LINEAR = {"native": 0.5, "numba": 0.1}
_SAMPLES = 64
_COUNTED = 16  # samples whose active inputs are counted, evenly over the batch and its time steps


class _Convolve(Operation):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, spikes: bool, synapses: Synapses) -> Tensor:
        if synapses.reads_few():
            return synapses.dense(x, weight, bias)
        if accelerated(x) == "native":
            return convolution.convolve(x, synapses.packed(weight, synapses.forward_method(spikes)), bias, synapses.geometry)
        from trustsnn.kernels import jit

        return jit.convolve(x, weight, bias, synapses.geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, _, synapses = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.settings = (tuple(x.shape[2:]), synapses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        size, synapses = ctx.settings
        needs = ctx.needs_input_grad
        to_x = ToInput.apply(gradients[0], weight, size, synapses) if needs[0] else None
        to_weight = _ToWeight.apply(gradients[0], x, synapses) if needs[1] else None
        return to_x, to_weight, gradients[0].sum((0, 2, 3)) if needs[2] else None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _over_images(_Convolve.apply, info.batch_size, in_dims, arguments)


class ToInput(Gradient):
    @staticmethod
    def forward(to_out: Tensor, weight: Tensor, size: tuple[int, int], synapses: Synapses) -> Tensor:
        if accelerated(to_out) == "native":
            packed = synapses.packed(weight, synapses.backward_method(), transposed=True)
            return convolution.input_gradient(to_out, packed, size, synapses.geometry)
        shape = (len(to_out), weight.shape[1] * synapses.geometry.groups, *size)
        return synapses.dense_gradients(to_out, to_out.new_empty(()).expand(shape), weight, (True, False))[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _over_images(ToInput.apply, info.batch_size, in_dims, arguments)


class _ToWeight(Gradient):
    @staticmethod
    def forward(to_out: Tensor, x: Tensor, synapses: Synapses) -> Tensor:
        kernel = (synapses.weight.shape[2], synapses.weight.shape[3])
        if synapses.reads_few():
            return synapses.dense_gradients(to_out, convolution.channels_last(x), synapses.weight, (False, True))[1]
        if accelerated(to_out) == "native":
            return convolution.weight_gradient(x, to_out, kernel, synapses.geometry)
        from trustsnn.kernels import jit

        return jit.weight_gradient(x, to_out, kernel, synapses.geometry)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_ToWeight.apply, info.batch_size, in_dims, arguments)


def _over_images(
    function: Callable[..., Tensor], size: int, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """A function of images over one more dimension: all as further images where only they have it."""
    if any(isinstance(dim, int) for dim in in_dims[1:]):
        return _one_by_one(function, size, in_dims, arguments)
    images = arguments[0].movedim(in_dims[0], 0)
    return function(images.flatten(0, 1), *arguments[1:]).unflatten(0, (size, images.shape[1])), 0


def _one_by_one(
    function: Callable[..., Tensor], size: int, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    parts = [
        function(*(v.select(d, index) if isinstance(d, int) else v for v, d in zip(arguments, in_dims, strict=True)))
        for index in range(size)
    ]
    return torch.stack(parts), 0


def _transformed(tensor: Tensor) -> bool:
    """Whether a transform of `torch.func` stands between this tensor and its values and its memory."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


class _Pool(Operation):
    @staticmethod
    def forward(images: Tensor) -> Tensor:
        return convolution.pool(images)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = tuple(inputs[0].shape[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        found: Tensor = _ToPooled.apply(gradients[0], ctx.size)
        return found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _over_images(_Pool.apply, info.batch_size, in_dims, arguments)


class _ToPooled(Gradient):
    @staticmethod
    def forward(to_out: Tensor, size: tuple[int, int]) -> Tensor:
        return convolution.pool_gradient(to_out, size)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _over_images(_ToPooled.apply, info.batch_size, in_dims, arguments)


def average_pool(layer: nn.AvgPool2d, images: Tensor) -> Tensor:
    """The layer's output for `images` [N, C, H, W]; 2x2 pooling has a kernel of its own."""
    pair = (2, (2, 2))
    plain = layer.kernel_size in pair and layer.stride in pair and layer.padding in (0, (0, 0)) and not layer.ceil_mode
    if plain and layer.divisor_override is None and accelerated(images) == "native":
        found: Tensor = _Pool.apply(images)
        return found
    return layer(images)  # type: ignore[no-any-return]


def _as_images(x: Tensor) -> Tensor:
    """Vectors [N, C] as images of one pixel, [N, C, 1, 1]."""
    return x.view(*x.shape, 1, 1)


class Synapses:
    """A convolution or linear layer, with the normalisation after it folded in where it is fixed.

    Calling it with spikes (or any input) [N, ...] gives the layer's output. Where a kernel is there the result comes from
    the active inputs alone: a layer with fixed weights then treats each sample for itself (see
    `trustsnn.kernels.convolution`), one in training chooses by the measured density.

    Args:
        layer: the convolution or linear layer.
        norm: evaluation-mode batch normalisation that follows it. The weights are then copies, without gradient.
        half: the gradient with respect to the input multiplies in bfloat16, where the processor can.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None, *, half: bool = False
    ) -> None:
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = layer.bias
        self.half = half
        self.flat = isinstance(layer, nn.Linear)
        self._packed: dict[tuple[Method, bool], Packed] = {}
        if norm is not None:
            self._fold(norm)
        if isinstance(layer, nn.Conv2d):
            self.geometry = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]
        else:
            self.geometry = Geometry()
            self.weight = _as_images(self.weight)

    @staticmethod
    def can(layer: nn.Module) -> bool:
        """Whether `layer` is one that this class computes."""
        plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain or isinstance(layer, nn.Linear)

    def _fold(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        if norm.running_mean is None or norm.running_var is None:
            raise ModelContractError("A normalisation without running statistics cannot be folded into a layer.")
        with torch.no_grad():
            scale = torch.rsqrt(norm.running_var.double() + norm.eps)
            shift = -norm.running_mean.double()
            if self.bias is not None:
                shift = shift + self.bias.double()
            if norm.affine:
                scale = scale * norm.weight.double()
            shift = shift * scale + (norm.bias.double() if norm.affine else 0)
            weight = self.weight.double() * scale.view(-1, *[1] * (self.weight.dim() - 1))
            self.weight, self.bias = weight.to(self.weight.dtype), shift.to(self.weight.dtype)

    def forward_method(self, spikes: bool) -> Method:
        """Spikes are added up where they are; what is between pooling and weights is too dense for that."""
        return "tiles" if not spikes and convolution.tiles(self.weight, self.geometry) else "sum"

    def backward_method(self) -> Method:
        if convolution.few(self.weight, self.geometry, transposed=True):
            return "few"
        half = self.half and not self.flat and self.geometry.groups == 1 and convolution.has_half()
        if convolution.tiles(self.weight, self.geometry, transposed=True):
            return "half tiles" if half else "tiles"
        return "half" if half else "sum"

    def packed(self, weight: Tensor, method: Method, *, transposed: bool = False) -> Packed:
        """`weight` laid out for the native kernel; kept while the weights are fixed."""
        if self.weight.requires_grad or weight is not self.weight:
            return convolution.pack(weight, self.geometry.groups, transposed=transposed, method=method)
        if (method, transposed) not in self._packed:
            self._packed[method, transposed] = convolution.pack(
                weight, self.geometry.groups, transposed=transposed, method=method
            )
        return self._packed[method, transposed]

    def __call__(self, x: Tensor, spikes: bool = True) -> Tensor:
        """The layer's output. `spikes`: `x` is what a layer of neurons gave, nothing in between."""
        images = _as_images(x) if self.flat else x
        if self._event_driven(images, spikes):
            out: Tensor = _Convolve.apply(images, self.weight, self.bias, spikes, self)
        else:
            out = self.dense(images, self.weight, self.bias)
        return out.flatten(1) if self.flat else out

    def reads_few(self) -> bool:
        """Whether this is a layer in training, of images with few channels: torch multiplies it out, and only the gradient of its input
        is a kernel's."""
        return self.weight.requires_grad and not self.flat and convolution.few(self.weight, self.geometry, transposed=True)

    def native(self, images: Tensor) -> bool:
        """Whether the native kernel computes this layer, its weights fixed, for `images`."""
        fixed = not self.weight.requires_grad and self.weight.dtype == torch.float32
        return fixed and accelerated(images) == "native" and not _transformed(images)

    def _event_driven(self, images: Tensor, spikes: bool) -> bool:
        kernel = accelerated(images)
        if kernel not in _SPARSE or self.weight.dtype != torch.float32:
            return False
        if not self.weight.requires_grad:
            return kernel == "native" or spikes
        if not images.requires_grad or _transformed(images) or (self.flat and len(images) < _SAMPLES):
            return False
        if self.reads_few():
            return kernel == "native"
        some = images.detach()[:: max(1, len(images) // _COUNTED)]
        return convolution.density(convolution.channels_last(some)) <= (_SPARSE_LINEAR if self.flat else _SPARSE)[kernel]

    def dense(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output for images, multiplied out by torch."""
        if self.flat:
            return _as_images(F.linear(images.flatten(1), weight.flatten(1), bias))
        g = self.geometry
        if accelerated(images) is not None and not _transformed(images):
            images = convolution.channels_last(images)
        return F.conv2d(images, weight, bias, g.stride, g.padding, g.dilation, g.groups)

    def dense_gradients(self, to_out: Tensor, x: Tensor, weight: Tensor, which: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
        """dLoss/dx and dLoss/dweight of the dense convolution, those of the two that are asked for."""
        g = self.geometry
        found = torch.ops.aten.convolution_backward.default(
            to_out, x, weight, None, g.stride, g.padding, g.dilation, False, (0, 0), g.groups, (*which, False)
        )
        return found[0], found[1]
