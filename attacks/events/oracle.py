"""What an event attack asks of the model, sample by sample, and how often."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustsnn.attacks.base import mean_gradient, transformations
from trustsnn.attacks.losses import margin
from trustsnn.blocks import input_gradient, predict
from trustsnn.rng import Draws


class Oracle:
    """Answers about one batch with labels `y` [B], whose places hold up to `most` events. Call inside `frozen(model)`.

    `rows` [N] says which sample of the batch each input [N, T, 2, H, W] belongs to; a sample may be asked about many times.
    `draws` name the samples to gradient estimators that keep statistics. A stochastic model is asked with `eot` draws of a sample, the
    same ones at every question, so that single events differ by themselves and not by chance. It is fooled where it is on all of
    them, and the margin is the smallest of theirs: an attack that takes back what it can spare would else leave a sample that fools
    these draws and hardly another. Logits and gradients are means.
    The margin max_{k != y} z_k - z_y (Carlini & Wagner 2017) is what every attack raises; it is in double precision.
    """

    def __init__(self, model: nn.Module, y: Tensor, most: int, draws: Draws, eot: int = 1) -> None:
        self.model, self.y, self.most = model, y, most
        self.draws = transformations(model, draws, eot)
        self.queries = torch.zeros_like(y)
        self.zero = torch.zeros_like(y, dtype=torch.bool)
        self.nonfinite = torch.zeros_like(self.zero)
        self._seen = torch.zeros_like(self.zero)

    def margins(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each input fools the model [N], and its margin [N], NaN as minus infinity."""
        if len(x) == 0:
            return torch.zeros(0, dtype=torch.bool, device=x.device), torch.zeros(0, dtype=torch.float64, device=x.device)
        return self._judge([predict(self.model, x, each) for each in self._asked(rows)], rows)

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [N, K]."""
        return torch.stack([predict(self.model, x, each) for each in self._asked(rows)]).mean(0)

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
        parts = [input_gradient(self.model, x, self.y[rows], margin, each) for each in self._asked(rows)]
        return *self._judge([part.logits for part in parts], rows), self._clean(mean_gradient(parts)[2], rows)

    def lead_gradient(self, x: Tensor, rows: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, K], z_rival - z_y [N] and its gradient, for one rival class of each input."""
        pairs = torch.stack([self.y[rows], rivals], 1)
        logits, leads, direction = mean_gradient(
            [input_gradient(self.model, x, pairs, _lead, each) for each in self._asked(rows)]
        )
        return logits, leads.double(), self._clean(direction, rows)

    def _asked(self, rows: Tensor) -> list[Draws]:
        """The draws of the rows, each of which is a query of theirs."""
        found = [each.select(rows.tolist()) for each in self.draws]
        self.queries.index_add_(0, rows, torch.full_like(rows, len(found)))
        return found

    def _judge(self, answers: list[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        y = self.y[rows]
        wrong = torch.stack([logits.argmax(1) != y for logits in answers])
        margins = torch.stack([margin(logits.double(), y).nan_to_num(-torch.inf) for logits in answers])
        return wrong.all(0), margins.amin(0)

    def _clean(self, gradient: Tensor, rows: Tensor) -> Tensor:
        first = ~self._seen[rows]
        self.zero[rows[first]] = (gradient[first] == 0).flatten(1).all(1)
        self.nonfinite[rows[first]] = ~torch.isfinite(gradient[first]).flatten(1).all(1)
        self._seen[rows] = True
        return gradient.nan_to_num(0.0, 0.0, 0.0)


def _lead(logits: Tensor, pair: Tensor) -> Tensor:
    chosen = logits.gather(1, pair)
    return chosen[:, 1] - chosen[:, 0]
