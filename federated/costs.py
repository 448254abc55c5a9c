"""What a round costs a device, estimated: joules and seconds of its training and of its radio. No torch.

A model on a model: arithmetic and memory by `trustsnn.energy.conventions`, a radio by its published power. Every figure below that is
not measured on the device at hand is an assumption; `CostSettings.assumptions` says them, and each can be set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trustsnn.energy.conventions import Work, dense, spiking

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class Radio(BaseModel):
    """Energy of a link: up_nj and down_nj, nanojoules a bit sent and received; base_w, watts for as long as it lasts; up_mbps and
    down_mbps, 10^6 bits a second."""

    model_config = _FROZEN
    up_nj: float = Field(ge=0)
    down_nj: float = Field(ge=0)
    base_w: float = Field(default=0.0, ge=0)
    up_mbps: float = Field(gt=0)
    down_mbps: float = Field(gt=0)
    source: str = "set by hand"


_HUANG = "Huang et al., A close examination of performance and power characteristics of 4G LTE networks, MobiSys 2012, table 4"
RADIOS = {
    "wifi": Radio(
        up_nj=283.17, down_nj=137.01, base_w=0.13286, up_mbps=10, down_mbps=10, source=f"{_HUANG}; rates of 10 Mbit/s assumed"
    ),
    "lte": Radio(
        up_nj=438.39, down_nj=51.97, base_w=1.28804, up_mbps=6, down_mbps=13, source=f"{_HUANG}; its median rates, without the tail"
    ),
    "ble": Radio(
        up_nj=27.4, down_nj=26.8, up_mbps=0.7, down_mbps=0.7,
        source="nRF52840 product specification: 6.40 mA sending at 0 dBm and 6.26 mA receiving, 1 Mbit/s, 3 V assumed; 0.7 Mbit/s of "
        "payload assumed; the radio alone",
    ),
}  # fmt: skip


class CostSettings(BaseModel):
    """How a round is priced.

    precision, memory: of the arithmetic, and whether memory counts, as in `trustsnn energy`.
    backward: products of a backward pass for each product of a forward pass, one for the gradient of the inputs and one for that of the
        weights (Kaplan 2020, arXiv 2001.08361, section 2.1).
    backward_over: "dense": every product of every step, since surrogate gradients are no spikes, an upper bound; "spikes": those of the
        forward pass alone, as if the gradient were as sparse as the spikes, a lower bound.
    operations_per_second: of a device without slowdown.
    radio: one of `RADIOS` by name, or its figures.
    """

    model_config = _FROZEN
    precision: Literal["fp32", "fp16"] = "fp32"
    memory: bool = True
    backward: float = Field(default=2.0, ge=0)
    backward_over: Literal["dense", "spikes"] = "dense"
    operations_per_second: float = Field(default=1e9, gt=0)
    radio: Radio = RADIOS["wifi"]

    @field_validator("radio", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in RADIOS:
                raise ValueError(f"expected one of {', '.join(RADIOS)}, or up_nj, down_nj, up_mbps and down_mbps, got {value!r}")
            return RADIOS[value]
        return value

    def assumptions(self) -> dict[str, str]:
        """What the figures rest on, in words, by its setting."""
        over = {"dense": "of a pass without zeros left out, at every step", "spikes": "of the forward pass as counted"}
        return {
            "precision": f"arithmetic in {self.precision} at 45 nm (Horowitz, ISSCC 2014), memory {'counted' if self.memory else 'left out'}",
            "backward": f"{self.backward:g} products for each product {over[self.backward_over]} (Kaplan 2020 counts 2)",
            "operations_per_second": f"{self.operations_per_second:g} operations a second, one after the other: assumed",
            "radio": self.radio.source,
        }


@dataclass(frozen=True)
class Cost:
    """Joules and seconds of the training and of the radio."""

    compute_joules: float = 0.0
    radio_joules: float = 0.0
    compute_seconds: float = 0.0
    radio_seconds: float = 0.0

    @property
    def joules(self) -> float:
        """Of both together."""
        return self.compute_joules + self.radio_joules

    @property
    def seconds(self) -> float:
        """One after the other."""
        return self.compute_seconds + self.radio_seconds


def round_cost(
    work: Sequence[Work],
    steps: int,
    settings: CostSettings,
    *,
    samples: int,
    epochs: float,
    received: int,
    sent: int,
    slowdown: float = 1.0,
) -> Cost:
    """What a client spends in a round.

    Args:
        work: what each layer does for one inference at the device's own number of time steps: `trustsnn.energy.costs.work_of` of `count`.
        steps: that number, T.
        samples, epochs: that it trains on and how often; part of an epoch counts in part.
        received, sent: bytes, such as `len` of a payload of `trustsnn.federated.compression`.
        slowdown: of the device.
    """
    seen = samples * epochs
    forward, operations = spiking(work, settings.precision, settings.memory), sum(layer.macs + layer.acs for layer in work)
    if settings.backward_over == "dense":
        backward = steps * dense(work, settings.precision, settings.memory)
        products = steps * sum(layer.dense for layer in work)
    else:
        backward, products = forward, operations
    link, up, down = settings.radio, 8 * sent, 8 * received
    on_air = up / (link.up_mbps * 1e6) + down / (link.down_mbps * 1e6)
    return Cost(
        compute_joules=seen * (forward + settings.backward * backward) * 1e-12,
        radio_joules=(up * link.up_nj + down * link.down_nj) * 1e-9 + link.base_w * on_air,
        compute_seconds=slowdown * seen * (operations + settings.backward * products) / settings.operations_per_second,
        radio_seconds=on_air,
    )


def total(costs: Iterable[Cost]) -> Cost:
    """The sum, the same in any order. Its seconds are device seconds: devices work side by side."""
    rows = [(each.compute_joules, each.radio_joules, each.compute_seconds, each.radio_seconds) for each in costs]
    return Cost(*map(math.fsum, zip(*rows, strict=True))) if rows else Cost()


def closes_after(costs: Mapping[int, Cost]) -> float:
    """Seconds of a round that waits for all of these clients: those of the slowest."""
    return max((each.seconds for each in costs.values()), default=0.0)
