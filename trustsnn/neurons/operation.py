"""Autograd functions of layers."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trustsnn.errors import ModelContractError


class _Bound(NamedTuple):
    """Arguments as `inspect.BoundArguments` has them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def apply_defaults(self) -> None:
        """There are none."""


class _Given(inspect.Signature):
    """That of a function whose arguments are all given, and by position: there is nothing to look up."""

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        return _Bound(args, kwargs)


class Operation(torch.autograd.Function):
    """An autograd function with a `setup_context`, which makes it ready for `torch.func`. `apply` takes all arguments by position.

    torch binds the arguments to the signature of `forward` in every call, which takes as long as a small layer. Here that is
    nothing; and where neither gradients are recorded nor a transform of `torch.func` is at work, `forward` alone is called.
    """

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """What `forward` gives, recorded for the backward pass where one may come."""
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return super().apply(*arguments)  # type: ignore[no-untyped-call]
        return cls.forward(*arguments)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):
            cls.forward.__signature__ = _Given()  # type: ignore[attr-defined]


class Gradient(Operation):
    """The backward pass of a layer as an operation of its own, which has no derivative."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise ModelContractError(
            "A spiking or event-driven layer has no second derivative: its backward pass is a gradient estimator's, not a "
            "function's. Differentiate once, without create_graph."
        )
