"""What an event attack asks of the model, sample by sample, and how often."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustsnn.attacks.losses import margin
from trustsnn.blocks import input_gradient, predict
from trustsnn.rng import Draws


class Oracle:
    """Answers about one batch with labels `y` [B], whose places hold up to `most` events. Call inside `frozen(model)`.

    `rows` [N] says which sample of the batch each input [N, T, 2, H, W] belongs to; a sample may be asked about many times.
    `draws` name the samples to gradient estimators that keep statistics.
    The margin max_{k != y} z_k - z_y (Carlini & Wagner 2017) is what every attack raises; it is in double precision.
    """

    def __init__(self, model: nn.Module, y: Tensor, most: int, draws: Draws) -> None:
        self.model, self.y, self.most, self.draws = model, y, most, draws
        self.queries = torch.zeros_like(y)
        self.zero = torch.zeros_like(y, dtype=torch.bool)
        self.nonfinite = torch.zeros_like(self.zero)
        self._seen = torch.zeros_like(self.zero)

    def margins(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each input fools the model [N], and its margin [N], NaN as minus infinity."""
        if len(x) == 0:
            return torch.zeros(0, dtype=torch.bool, device=x.device), torch.zeros(0, dtype=torch.float64, device=x.device)
        return self._judge(self.logits(x, rows), rows)

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [N, K]."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        return predict(self.model, x)

    def still_right(self, x: Tensor) -> Tensor:
        """The rows of the batch that the model gets right."""
        everyone = torch.arange(len(x), device=x.device)
        return everyone[~self.margins(x, everyone)[0]]

    @property
    def nobody(self) -> Tensor:
        """No row at all."""
        return torch.zeros(0, dtype=torch.int64, device=self.y.device)

    def gradient(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `margins`, with the gradient of the margin; what is not finite in it counts as zero."""
        answer = input_gradient(self.model, x, self.y[rows], margin, self.draws.select(rows.tolist()))
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        return *self._judge(answer.logits, rows), self._clean(answer.direction, rows)

    def lead_gradient(self, x: Tensor, rows: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, K], z_rival - z_y [N] and its gradient, for one rival class of each input."""
        pairs = torch.stack([self.y[rows], rivals], 1)
        answer = input_gradient(self.model, x, pairs, _lead, self.draws.select(rows.tolist()))
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        return answer.logits, answer.losses.double(), self._clean(answer.direction, rows)

    def _judge(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return logits.argmax(1) != self.y[rows], margin(logits.double(), self.y[rows]).nan_to_num(-torch.inf)

    def _clean(self, gradient: Tensor, rows: Tensor) -> Tensor:
        first = ~self._seen[rows]
        self.zero[rows[first]] = (gradient[first] == 0).flatten(1).all(1)
        self.nonfinite[rows[first]] = ~torch.isfinite(gradient[first]).flatten(1).all(1)
        self._seen[rows] = True
        return gradient.nan_to_num(0.0, 0.0, 0.0)


def _lead(logits: Tensor, pair: Tensor) -> Tensor:
    chosen = logits.gather(1, pair)
    return chosen[:, 1] - chosen[:, 0]
