"""What lies around a crossbar: converters to analog and back, and the voltage that its wires take (aihwkit, Rasch 2021,
arXiv 2104.02184)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustsnn.encoders import Generator
from trustsnn.errors import ConfigError
from trustsnn.hardware.twin import Layer, Twin
from trustsnn.models.gates import Drawn, normal
from trustsnn.models.network import SpikingNetwork
from trustsnn.neurons.operation import Operation
from trustsnn.settings import setting


class Quantised(nn.Module):
    """The nearest of `steps` + 1 even values from centre - reach to centre + reach; what lies beyond them becomes the last one.

    `centre` and `reach` are [channels] or [1], for an input [N, channels, ...]. The gradient is straight through between the two ends
    and 0 beyond them.
    """

    centre: Tensor
    reach: Tensor

    def __init__(self, centre: Tensor, reach: Tensor, steps: int) -> None:
        super().__init__()
        self.register_buffer("centre", centre.detach().clone())
        self.register_buffer("reach", reach.detach().clamp_min(torch.finfo(reach.dtype).tiny))
        self.steps = steps

    def forward(self, h: Tensor) -> Tensor:
        """The values that the codes stand for, shaped as `h`."""
        found: Tensor = _Nearest.apply(h, along(self.centre, h), along(self.reach, h), self.steps)
        return found

    def extra_repr(self) -> str:
        return f"{self.steps + 1} values"


class _Nearest(Operation):
    """The value of the nearest code, in few passes over the memory: a network's slowest part otherwise."""

    @staticmethod
    def forward(h: Tensor, centre: Tensor, reach: Tensor, steps: int) -> Tensor:
        code = h.sub(centre).div_(reach).clamp_(-1, 1).add_(1).mul_(steps / 2).round_()
        return code.mul_(2).div_(steps).sub_(1).mul_(reach).add_(centre)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        h, centre, reach, _ = inputs
        ctx.save_for_backward(h.sub(centre).abs_() <= reach if ctx.needs_input_grad[0] else None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class Noisy(Drawn):
    """What comes out of `then` for h + sigma xi, xi a standard normal for each sample, step and output; `sigma` [channels] or [1]."""

    sigma: Tensor

    def __init__(self, sigma: Tensor, then: nn.Module) -> None:
        super().__init__()
        self.register_buffer("sigma", sigma.detach().clone())
        self.then = then

    def forward(self, h: Tensor, part: range | None = None, generator: Generator = None) -> Tensor:
        """The outputs with their noise."""
        return self.then(h + along(self.sigma, h) * self.drawn(h, part, generator))  # type: ignore[no-any-return]

    def drawn(self, h: Tensor, part: range | None, generator: Generator) -> Tensor:
        """xi, shaped as `h`."""
        return normal(generator, part, h).to(h.dtype)

    def over_time(self) -> nn.Module:
        """What this is without noise."""
        return self.then


def along(values: Tensor, h: Tensor) -> Tensor:
    """`values` [channels] or [1] with the dimensions that they need for h [N, channels, ...]."""
    return values.view(-1, *[1] * (h.dim() - 2))


def check_sums(twin: Twin, network: nn.Module) -> None:
    """ConfigError for a network whose layers give no sums that a converter of the twin could take, bias included."""
    if isinstance(network, SpikingNetwork) and network.spec.readout == "bits":
        raise ConfigError(
            f"The twin {twin.name!r} converts the sum of a layer at each time step; a bit-serial network adds its bias once, behind "
            "the last bit. Convert the network to rate coding, or leave the twin out."
        )


@dataclass(frozen=True, kw_only=True)
class Converters(Twin):
    """A converter to analog before the weights of each layer, and noise and a converter to digital behind them, with the defaults of
    aihwkit's IOParameters.

    aihwkit counts in units of its crossbar, where the largest weight of a layer is 1. Here that largest weight is w_max, as the network
    has it before any other twin, so that in the units of the network

        x <- nearest of the 2^input_bits - 1 even values in +-input_bound
        y <- nearest of the 2^output_bits - 1 even values in +-output_bound w_max, of y + noise w_max xi

    with y the sum of a layer without its bias, which the chip adds digitally. At the defaults a spike of 1 is exact, the step of the
    output is .047 w_max, and noise is drawn for each sample, time step and output. Inputs are not scaled to their range as aihwkit's
    noise and bound management do it: what exceeds it is clipped. A layer is one crossbar, however many inputs it has.

    Args:
        input_bits, input_bound: of the converter to analog; the bound in units of the input.
        output_bits, output_bound: of the converter to digital; the bound in units of w_max times an input of 1.
        noise: standard deviation of the output noise, in the same unit. Without it the network stays deterministic.
    """

    input_bits: int = setting(7, 2, 16)
    input_bound: float = setting(1.0, above=True)
    output_bits: int = setting(9, 2, 16)
    output_bound: float = setting(12.0, above=True)
    noise: float = setting(0.06)

    name: ClassVar[str] = "adc"

    @property
    def stochastic(self) -> bool:
        return False

    def check(self, network: nn.Module) -> None:
        check_sums(self, network)

    def inputs(self, layer: Layer) -> nn.Module:
        """The converter to analog."""
        assert layer.synapses is not None
        like = layer.synapses.weight
        return Quantised(like.new_zeros(1), like.new_full((1,), self.input_bound), 2**self.input_bits - 2)

    def outputs(self, layer: Layer) -> nn.Module:
        """Noise and the converter to digital."""
        assert layer.synapses is not None
        largest = layer.synapses.weight.abs().max().view(1)
        bias = layer.synapses.bias
        centre = torch.zeros_like(largest) if bias is None else bias
        converter = Quantised(centre, self.output_bound * largest, 2**self.output_bits - 2)
        return Noisy(self.noise * largest, converter) if self.noise else converter


@dataclass(frozen=True, kw_only=True)
class IRDrop(Twin):
    """The voltage that the wire of a column takes from its cells: aihwkit's model with the wire's resistance from cell to cell, with a
    segment for each cell (its default joins the cells of a column to 8 segments).

    A weight is a pair of devices, of which one has conductance |w| / w_max and the other none; the row drivers hold every row at its
    voltage, at 0 where there is no spike, and rows have no resistance, which leaves out about half of the loss on a square of cells.
    The column is then a linear network: each cell loses a share of its current that depends on conductances and place alone, and its
    weight counts for that much less. Even outputs are read at the last row, odd ones at the first, as on aihwkit's tile. A layer of
    more inputs than rows takes several tiles of equal size; one of fewer lies in the middle of its tile, whose rest is wire.

    Args:
        wire: ohm from a cell to the next, half of it from the last one to the converter. aihwkit's simple model has .35.
        conductance: of the largest weight of a layer, in microsiemens. aihwkit's simple model has 5, its PCM model 25.
        rows: of a tile.
    """

    wire: float = setting(0.15)
    conductance: float = setting(25.0, above=True)
    rows: int = setting(512, 1, 65536)

    name: ClassVar[str] = "ir-drop"

    @property
    def stochastic(self) -> bool:
        return False

    def weights(self, weight: Tensor, layer: Layer) -> Tensor:
        """The weights as the converters see them."""
        flat = weight.detach().abs().flatten(1).double().cpu().numpy()
        siemens = flat * (self.conductance * 1e-6 / max(float(flat.max()), 1e-300))
        outputs, inputs = flat.shape
        tiles = -(-inputs // self.rows)
        used = -(-inputs // tiles)
        cells = np.zeros((outputs, tiles, self.rows))
        middle = slice((self.rows - used) // 2, (self.rows - used) // 2 + used)
        cells[..., middle] = np.pad(siemens, ((0, 0), (0, tiles * used - inputs))).reshape(outputs, tiles, used)
        cells[1::2] = cells[1::2, :, ::-1].copy()
        shares = reaching(cells, self.wire)
        shares[1::2] = shares[1::2, :, ::-1].copy()
        kept = torch.from_numpy(shares[..., middle].reshape(outputs, tiles * used)[:, :inputs].copy())
        return weight * kept.to(weight).view_as(weight)


def reaching(siemens: NDArray[np.float64], wire: float) -> NDArray[np.float64]:
    """The share of each cell's current that reaches the converter behind the last cell of a column, for conductances [..., cells] and
    `wire` ohm from a cell to the next, half of it to the converter.

    By reciprocity that is the voltage at the cell for 1 V at the converter and every row at 0.
    """
    cells = siemens.shape[-1]
    passed = np.empty(siemens.shape)
    looking = np.zeros(siemens.shape[:-1])  # conductance of a cell and all that lie behind it
    for cell in range(cells):
        looking = siemens[..., cell] + looking / (1 + looking * wire)
        passed[..., cell] = 1 / (1 + looking * (wire if cell < cells - 1 else wire / 2))
    shares: NDArray[np.float64] = np.multiply.accumulate(passed[..., ::-1], axis=-1)[..., ::-1].copy()
    return shares
