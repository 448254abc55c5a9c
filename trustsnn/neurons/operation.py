"""Autograd functions of layers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from trustsnn.errors import ModelContractError


class Operation(torch.autograd.Function):
    """An autograd function with a `setup_context`, which makes it ready for `torch.func`.

    torch then looks up the signature of `forward` in every call, which takes a tenth of a millisecond; here it is kept.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):
            cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]


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
