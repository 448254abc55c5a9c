"""What the computations of any module are fed with, by what flows through them: spikes, or something that costs a multiplication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trustsnn.models.flow import SPIKES, Flow

_WEIGHTED = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "bilinear", "addmm",
}  # fmt: skip
_PRODUCTS = {"matmul", "rmatmul", "mm", "bmm", "baddbmm", "einsum", "tensordot", "inner"}
_ACTIVATIONS = {
    "gelu", "silu", "mish", "softmax", "log_softmax", "softmin", "sigmoid", "logsigmoid", "tanh", "elu", "celu", "selu", "glu", "softplus",
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "hardtanh", "hardswish", "hardsigmoid", "softsign", "softshrink", "hardshrink",
    "tanhshrink", "threshold",
}  # fmt: skip
_REAL = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "gates and states of real values"),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), "gates and states of real values"),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "rms_norm"), "currents that are divided by their spread in each sample"
    ),
    **dict.fromkeys(("scaled_dot_product_attention", "multi_head_attention_forward"), "products of attention"),
}
"""Functions of torch by their names: of a signal and weights, of any two, activations, and such as compute with real values whatever
comes."""

_POOLS = {f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)} | {"mean"}
_SHAPES = {
    "flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "getitem", "select", "narrow",
    "expand", "broadcast_to", "repeat", "tile", "repeat_interleave", "stack", "cat", "unbind", "split", "chunk", "contiguous", "clone", "detach",
    "to", "float", "double", "dropout",
}  # fmt: skip
_AFFINE = {"add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "imul", "div", "truediv", "itruediv", "neg", "batch_norm"}
"""Averages of a window, what moves values about, and what scales and shifts them: a signal keeps its kind behind these."""


def observed_inputs(module: nn.Module, x: Tensor) -> dict[str, Flow]:
    """What flows when `module` computes the batch `x`: into each convolution and linear map, be it a module or a call in some module's
    forward, whose name it then has, and each function that is none of spikes (GELU, softmax, attention, an LSTM, ...). Of what
    torch itself does not compute, such as kernels of another package, nothing is seen."""
    given = x.view(x.shape)  # a tensor of our own, which is marked
    seen = _Watch(module, given)
    with torch.no_grad(), seen.places(), seen:
        module(given)
    return seen.found


class _Watch(TorchFunctionMode):
    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.module = module
        _mark(x, Flow("encoder", "the input"))
        self.found: dict[str, Flow] = {}
        self.stack: list[str] = []
        self.weights = {p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]}

    @contextmanager
    def places(self) -> Iterator[None]:
        """Inside, `stack` has the names of the modules whose forward runs."""
        hooks = []
        for name, layer in self.module.named_modules():
            hooks.append(layer.register_forward_pre_hook(partial(self._enter, name)))
            hooks.append(layer.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.stack.append(name)

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        operands = [each for each in _flat([*args, *kwargs.values()]) if isinstance(each, Tensor)]
        kept, result = self._kept(name, operands), func(*args, **kwargs)
        if self.stack and (name in _WEIGHTED or name in _PRODUCTS or name in _ACTIVATIONS or name in _REAL):
            self._note(name, operands, result)
        for each in _flat([result]):
            if isinstance(each, Tensor) and (kept is not None or _marked(each) is not None):  # in place: what it was no more
                _mark(each, kept)
        return result

    def _kept(self, function: str, operands: list[Tensor]) -> Flow | None:
        """What the operands are, where they are all the same and the function leaves them that."""
        if not self.stack or function not in _POOLS | _SHAPES | _AFFINE:
            return None
        signals = [each for each in operands if each.untyped_storage().data_ptr() not in self.weights]
        flow = _marked(signals[0]) if signals else None
        if function in _POOLS and signals and (_binary(signals[0]) or (flow is not None and flow.kind == "averages")):
            return Flow("averages", f"averages of spikes ({self.stack[-1]})")
        if flow is None or any(_marked(each) != flow for each in signals):
            return None
        return flow if function in _SHAPES or (function in _AFFINE and flow.kind == "encoder") else None

    def _note(self, function: str, operands: list[Tensor], result: Any) -> None:
        signals = [each for each in operands if each.untyped_storage().data_ptr() not in self.weights]
        weighs = function in _WEIGHTED or function in _PRODUCTS
        if not signals or (not weighs and signals[0].dim() < 2):  # a learnt constant, such as a leak behind a sigmoid
            return
        own = _stands_for(self._layer(), function)
        place = self.stack[-1] if own else f"{self.stack[-1]}, {function}"
        told = type(self._layer()).__name__ if own else function
        if function in _REAL:
            self.found[place] = Flow("real", f"{_REAL[function]}, {told}")
        elif function in _ACTIVATIONS:
            if not _binary(result):
                self.found[place] = Flow("real", f"an activation, {told}")
        elif function in _PRODUCTS and len(signals) > 1:
            self.found[place] = Flow("real", "products of two signals")
        elif place not in self.found or self.found[place].kind != "real":  # what runs at every step keeps its worst
            self.found[place] = self._fed(signals[0])

    def _layer(self) -> nn.Module:
        return self.module.get_submodule(self.stack[-1])

    def _fed(self, given: Tensor) -> Flow:
        if _binary(given):
            return SPIKES
        return _marked(given) or Flow("real", "values other than 0 and 1")


def _mark(values: Tensor, flow: Flow | None) -> None:
    values._trustsnn_flow = flow  # type: ignore[attr-defined]


def _marked(values: Tensor) -> Flow | None:
    return getattr(values, "_trustsnn_flow", None)


def _flat(args: Any) -> Iterator[Any]:
    for each in args:
        if isinstance(each, list | tuple):
            yield from _flat(each)
        else:
            yield each


def _binary(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _stands_for(layer: nn.Module, function: str) -> bool:
    """Whether a module is torch's own for that function, such as nn.LeakyReLU for leaky_relu, which then goes by its name alone."""
    kinds = [kind.__name__.lower() for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.modules.")]
    return any(kind != "module" and function.replace("_", "").startswith(kind) for kind in kinds)
