"""PGD-0: projected gradient ascent that changes few pixels (Croce & Hein 2019, arXiv 1909.05040)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trustsnn.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class PGD0(PGD):
    """PGD in the L0 ball: at most `eps` pixels change, by any amount, in any of their channels. A step moves the entries by
    `step_size` on average (0.15 if not given, the paper's 120,000 / 255 on 32 x 32 x 3), and the projection keeps the pixels
    whose change brings the most."""

    norm: str = "l0"

    name: ClassVar[str] = "pgd0"
    norms: ClassVar[tuple[str, ...]] = ("l0",)

    @property
    def step(self) -> float:
        return 0.15 if self.step_size is None else self.step_size
