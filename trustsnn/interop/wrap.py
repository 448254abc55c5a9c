"""`trustsnn.wrap`: any nn.Module behind the model contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError, ModelContractError
from trustsnn.models.spec import Domain, ModelSpec, Trace
from trustsnn.neurons.estimator import mean_over_time


class WrappedModel(nn.Module):
    """A user's module under the contract. Made by `wrap`."""

    def __init__(self, module: nn.Module, spec: ModelSpec, reset: Callable[[nn.Module], object] | None) -> None:
        super().__init__()
        self.module = module
        self.spec = spec
        self._reset = reset

    def forward(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Logits [B, K]. A module that gives one row of logits a time step, [T, B, K], is averaged over T."""
        return mean_over_time(self._outputs(x))

    def unroll(self, x: Tensor, generator: Generator = None) -> Trace:
        """The outputs as a trace; spike counts are empty, since a foreign module's neurons are not known."""
        logits = self._outputs(x)
        return Trace(logits, {}, logits.detach().cumsum(0))

    def _outputs(self, x: Tensor) -> Tensor:
        if self._reset is not None:
            self._reset(self.module)
        output = self.module(x)
        if not isinstance(output, Tensor) or output.dim() not in (2, 3):
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ModelContractError(f"Expected logits [B, K] or [T, B, K] from the wrapped module, got {got}.")
        if output.dim() == 3 and len(output) != self.spec.steps:
            raise ModelContractError(f"Expected [{self.spec.steps}, B, K] from the wrapped module, got {list(output.shape)}.")
        return output if output.dim() == 3 else output.unsqueeze(0)


def wrap(
    module: nn.Module,
    *,
    domain: Domain = "image",
    time_steps: int,
    classes: int | None = None,
    input_shape: Sequence[int] = (),
    max_count: int | None = None,
    reset: Callable[[nn.Module], object] | None = None,
) -> WrappedModel:
    """Put any module behind the model contract, in eval mode.

    Args:
        module: takes a batch [B, ...] and returns logits [B, K], or [T, B, K] for T = `time_steps`.
        domain: "image" (values in [0, 1]), "events-binary" or "events-count" (with `max_count`).
        classes: K; read off the last Linear layer if not given.
        input_shape: of one sample; taken from the data where it is not given.
        reset: called with the module before every forward, for modules that keep state (such as
            `spikingjelly.activation_based.functional.reset_net`).

    The audit tests the contract before it attacks. How the module's spikes are differentiated stays the module's own
    unless it is built of `trustsnn.neurons.SpikingNeuron`.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"Expected a torch.nn.Module, got {type(module).__name__}.")
    if classes is None:
        heads = [m for m in module.modules() if isinstance(m, nn.Linear)]
        if not heads:
            raise ConfigError("The module has no Linear layer to read the number of classes from. Pass classes=K.")
        classes = heads[-1].out_features
    spec = ModelSpec(domain, tuple(input_shape), classes, time_steps, "own", "own", False, max_count)
    return WrappedModel(module.eval(), spec, reset)
