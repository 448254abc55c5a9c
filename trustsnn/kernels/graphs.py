"""A function of tensors of fixed shape as one CUDA graph: hundreds of small launches become one, as an attack's steps need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from trustsnn.errors import ConfigError, ModelContractError

R = TypeVar("R", bound="Tensor | tuple[Tensor, ...]")

_WARM_UPS = 3  # libraries choose their algorithms, and Triton compiles, before anything is recorded


class Captured(Generic[R]):
    """`function(*tensors)`, recorded once on a CUDA device and replayed; on another device simply called.

    The record holds the kernels that ran on the `examples`, and nothing that Python did beside them. So the function must not
    branch on the values of tensors or read them on the host (`.item()`, `float(tensor)`, `nonzero`, a boolean mask), nor
    draw at random on the host. It may take gradients with `torch.autograd.grad` of what it makes itself. Other tensors that
    it reads, such as weights, are read where they were: change them in place and the next call sees it, put others in their
    place and it does not.

    >>> square = Captured(lambda x: x * x, torch.zeros(3))
    >>> square(torch.arange(3.0)).tolist()
    [0.0, 1.0, 4.0]

    Args:
        function: takes tensors, returns a tensor or a (named) tuple of tensors.
        examples: one tensor for each argument, of the shape, dtype and device of all later ones. At least one.

    Raises:
        ConfigError: without examples, with examples on several devices, or where the function returns anything else.
        ModelContractError: the function cannot be recorded.
    """

    def __init__(self, function: Callable[..., R], *examples: Tensor) -> None:
        devices = {example.device for example in examples}
        if len(devices) != 1:
            raise ConfigError(
                f"Expected example tensors on one device, got {len(examples)} on {sorted(map(str, devices)) or 'none'}."
            )
        self._function = function
        self._expected = [(example.shape, example.dtype, example.device) for example in examples]
        self._device = devices.pop()
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._device.type == "cuda":
            self._inputs = [example.detach().clone() for example in examples]
            try:
                with torch.cuda.device(self._device):
                    self._record()
            except RuntimeError as error:
                raise ModelContractError(
                    f"The function cannot be recorded as a CUDA graph; call it directly instead. It must launch the same work "
                    f"for all values and read none on the host (.item(), float(tensor), boolean masks): {error}"
                ) from error

    def _record(self) -> None:
        # on a stream of its own, as what runs on the default stream cannot be captured
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                _checked(self._function(*self._inputs))
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs = self._function(*self._inputs)
        self._graph = graph

    def __call__(self, *tensors: Tensor) -> R:
        """The function's result for `tensors`, in memory of its own.

        Raises:
            ConfigError: other shapes, dtypes or devices than the examples had.
        """
        got = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        if got != self._expected:
            raise ConfigError(f"Expected tensors {_described(self._expected)} as at the recording, got {_described(got)}.")
        if self._graph is None:
            return _checked(self._function(*tensors))
        with torch.no_grad(), torch.cuda.device(self._device):
            for static, tensor in zip(self._inputs, tensors, strict=True):
                static.copy_(tensor)
            self._graph.replay()
            result: R = _cloned(self._outputs)
        return result


def _checked(result: R) -> R:
    if not isinstance(result, Tensor) and not (isinstance(result, tuple) and all(isinstance(part, Tensor) for part in result)):
        raise ConfigError(f"Expected a function that returns a tensor or a tuple of tensors, got {type(result).__name__}.")
    return result


def _cloned(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.detach().clone()
    parts = [part.detach().clone() for part in result]
    return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)


def _described(tensors: list[tuple[torch.Size, torch.dtype, torch.device]]) -> str:
    texts = [f"{list(shape)} {str(dtype).removeprefix('torch.')} on {device}" for shape, dtype, device in tensors]
    return ", ".join(texts) or "none"
