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
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
    "bilinear",
    "addmm",
}
_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "einsum"}
_REAL = {
    **dict.fromkeys(("gelu", "silu", "mish", "softmax", "log_softmax", "sigmoid", "tanh", "elu", "softplus"), "an activation"),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "gates and states of real values"),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), "currents that are divided by their spread in each sample"),
    **dict.fromkeys(("scaled_dot_product_attention", "multi_head_attention_forward"), "products of attention"),
}
"""Functions of torch by their names: of a signal and weights, of any two, and such as give or take real values whatever comes."""


def observed_inputs(module: nn.Module, x: Tensor) -> dict[str, Flow]:
    """What flows when `module` computes the batch `x`: into each convolution and linear map, be it a module or a call in some module's
    forward, whose name it then has, and each function that is none of spikes (GELU, softmax, attention, an LSTM, ...). Of what
    torch itself does not compute, such as kernels of another package, nothing is seen."""
    seen = _Watch(module, x)
    with torch.no_grad(), seen.places(), seen:
        module(x)
    return seen.found


class _Watch(TorchFunctionMode):
    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.module, self.x = module, x
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
        name = getattr(func, "__name__", "")
        if self.stack and (name in _WEIGHTED or name in _PRODUCTS or name in _REAL):
            self._note(name, [each for each in _flat(args) if isinstance(each, Tensor)])
        return func(*args, **(kwargs or {}))

    def _note(self, function: str, operands: list[Tensor]) -> None:
        signals = [each for each in operands if each.untyped_storage().data_ptr() not in self.weights]
        if not signals or (function in _REAL and signals[0].dim() < 2):  # a learnt constant, such as a leak behind a sigmoid
            return
        own = any(isinstance(self._layer(), kind) and function in functions for kind, functions in _OWN.items())
        place = self.stack[-1] if own else f"{self.stack[-1]}, {function.strip('_')}"
        if function in _REAL:
            told = type(self._layer()).__name__ if own else function
            self.found[place] = Flow("real", f"{_REAL[function]}, {told}")
        elif function in _PRODUCTS and len(signals) > 1:
            self.found[place] = Flow("real", "products of two signals")
        elif place not in self.found or self.found[place].kind != "real":  # what runs at every step keeps its worst
            self.found[place] = self._fed(signals[0])

    def _layer(self) -> nn.Module:
        return self.module.get_submodule(self.stack[-1])

    def _fed(self, given: Tensor) -> Flow:
        if bool(((given == 0) | (given == 1)).all()):
            return SPIKES
        if given.numel() >= self.x.numel() and torch.equal(given.flatten()[: self.x.numel()], self.x.flatten()):
            return Flow("encoder", "the input itself")
        return Flow("real", "values other than 0 and 1")


def _flat(args: Any) -> Iterator[Any]:
    for each in args:
        if isinstance(each, list | tuple):
            yield from _flat(each)
        else:
            yield each


_OWN: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("linear",), nn.Bilinear: ("bilinear",), nn.Conv1d: ("conv1d",), nn.Conv2d: ("conv2d",), nn.Conv3d: ("conv3d",),
    nn.ConvTranspose1d: ("conv_transpose1d",), nn.ConvTranspose2d: ("conv_transpose2d",), nn.ConvTranspose3d: ("conv_transpose3d",),
    nn.GELU: ("gelu",), nn.SiLU: ("silu",), nn.Mish: ("mish",), nn.Softmax: ("softmax",), nn.LogSoftmax: ("log_softmax",),
    nn.Sigmoid: ("sigmoid",), nn.Tanh: ("tanh",), nn.ELU: ("elu",), nn.Softplus: ("softplus",), nn.LSTM: ("lstm",), nn.GRU: ("gru",),
    nn.RNN: ("rnn_tanh", "rnn_relu"), nn.LayerNorm: ("layer_norm",), nn.GroupNorm: ("group_norm",),
    nn.MultiheadAttention: ("multi_head_attention_forward",),
}  # fmt: skip
"""Modules that stand for one function, which then goes by the module's name alone."""
