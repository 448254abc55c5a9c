"""A lower bound on eps from one training run (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from trustsnn.defenses.dp.gradients import Gradients, PerSample, clipped_sum, per_sample_gradients, trainable
from trustsnn.defenses.dp.noise import Seeded
from trustsnn.defenses.dp.privacy import PrivacyConfig, epsilon, noise_for
from trustsnn.defenses.dp.train import noise
from trustsnn.errors import ConfigError
from trustsnn.rng import stream

_EPS_MOST = 60.0  # 1 - 1 / (1 + exp(-60)) is below the smallest float64 step at 1


def p_value(eps: float, delta: float, *, canaries: int, guesses: int, correct: int) -> float:
    """The most that the probability of `correct` or more right guesses can be for an (eps, delta) private training run (theorem 5.2).

        beta + 2 m delta max_i (1/i) P[v > W >= v - i],   beta = P[W >= v],   W ~ Binomial(r, e^eps / (1 + e^eps))

    with m canaries, each included with probability 1/2, r guesses and v right ones; i runs from 1 to v.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ConfigError(f"Expected 0 <= correct <= guesses <= canaries, got {correct}, {guesses} and {canaries}.")
    right = 1 / (1 + math.exp(-eps))
    beta = float(binom.sf(correct - 1, guesses, right))
    if delta == 0 or correct == 0:
        return min(1.0, beta)
    within = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    return min(1.0, beta + 2 * canaries * delta * float((within / np.arange(1, correct + 1)).max()))


def eps_lower_bound(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """The largest eps that so many right guesses rule out at that confidence; 0 where they rule out none."""
    if not 0 < confidence < 1:
        raise ConfigError(f"Expected a confidence in (0, 1), got {confidence}.")

    def refuted(eps: float) -> bool:
        return p_value(eps, delta, canaries=canaries, guesses=guesses, correct=correct) < 1 - confidence

    low, high = 0.0, _EPS_MOST
    if not refuted(low):
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class OneRunAudit:
    """What the guesses of one run say about its eps. `lower` is the lower bound at `confidence`; `holds` whether it stays below the
    claimed `eps`. A bound that stays below proves nothing: another attack may be stronger."""

    eps: float
    delta: float
    lower: float
    confidence: float
    canaries: int
    guesses: int
    correct: int
    holds: bool
    sentence: str


def noise_canaries(count: int, shape: tuple[int, ...], classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples [count, *shape] of independent pixels that are -1 or 1, and random labels: what nothing else in the data looks like."""
    draws = stream(seed, "dp/canaries")
    x = torch.from_numpy(2 * draws.integers(0, 2, (count, *shape)).astype(np.float32) - 1)
    return x, torch.from_numpy(draws.integers(0, classes, count))


def one_run_audit(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    canaries: tuple[Tensor, Tensor],
    privacy: PrivacyConfig,
    *,
    gradients: PerSample = per_sample_gradients,
    rate: float = 0.5,
    steps: int = 20,
    learning_rate: float = 0.1,
    guesses: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> OneRunAudit:
    """Train privately once with some canaries in the data, guess which, and bound eps from below.

    Each canary is included by the toss of a coin. The attacker knows everything but the coins, the batches and the noise, and sees every
    noisy sum of gradients, as the guarantee allows. A canary's score is the sum over steps of the best linear estimate of whether it was
    in the batch, from its own clipped gradient and that of all other samples. Half of the guesses say "in", for the highest scores, and
    half say "out", for the lowest; how many is fixed beforehand.

    Args:
        model: from [B, ...] to logits [B, K], with the layers that `per_sample_gradients` takes. It stays as it is; a copy is trained.
        data, canaries: samples and labels.
        privacy: `eps` or `sigma`, and `clip`, `delta` and `accountant`; its eps for this run is the claim that is audited.
        gradients: what the training takes for the gradients of the samples: the code under audit.
        rate: q, with which a sample is in a batch.
        steps: of plain gradient descent at `learning_rate` on the noisy sum over the expected size of a batch.
        guesses: how many; half of the canaries by default.
        seed: of coins, batches and noise.

    Raises:
        ConfigError: settings out of range.
    """
    x, y = canaries
    count = len(x)
    guesses = count // 2 if guesses is None else guesses
    if not (2 <= guesses <= count and 0 < rate <= 1 and steps >= 1):
        raise ConfigError(f"Expected 2 to {count} guesses, a rate in (0, 1] and at least 1 step, got {guesses}, {rate}, {steps}.")
    spent = {"rate": rate, "steps": steps, "delta": privacy.delta}
    sigma = privacy.sigma or noise_for(privacy.eps or 0.0, privacy.accountant, **spent)
    eps = epsilon(privacy.accountant, sigma=sigma, **spent)  # type: ignore[arg-type]
    included = stream(seed, "dp/audit/coins").random(count) < 0.5
    known = (torch.cat([x, data[0]]), torch.cat([y, data[1]]))
    present = torch.cat([torch.full((count,), 0.5), torch.ones(len(data[0]))])
    members = (torch.cat([data[0], x[included]]), torch.cat([data[1], y[included]]))
    scores, source, model = np.zeros(count), Seeded(seed), copy.deepcopy(model).train()
    for step in range(steps):
        rows = torch.from_numpy(source.batch(step, len(members[0]), rate))
        total = {name: torch.zeros_like(p) for name, p in trainable(model).items()}
        if len(rows):
            total = clipped_sum(gradients(model, members[0][rows], members[1][rows]), privacy.clip)
        noise(model, total, source, step, sigma * privacy.clip)
        own = _clipped_rows(per_sample_gradients(model, *known), privacy.clip)
        one = clipped_sum(gradients(model, x[:1], y[:1]), privacy.clip)
        reach = float(_flat(one).norm()) / max(float(own[0].norm()), 1e-12)  # how far the audited code lets a sample reach
        scores += _in_batch(reach * own, _flat(total), rate * present, sigma * privacy.clip)[:count]
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.sub_(learning_rate * total[name] / (rate * len(members[0])))
    correct = _right(scores, included, guesses)
    lower = eps_lower_bound(canaries=count, guesses=guesses, correct=correct, delta=privacy.delta, confidence=confidence)
    sentence = (
        f"{correct} of {guesses} guesses on {count} canaries are right: eps is at least {lower:.2f} at {confidence:.0%} confidence, "
        f"and {eps:.2f} is claimed. " + ("The claim is not refuted." if lower <= eps else "The claim is false.")
    )
    return OneRunAudit(eps, privacy.delta, lower, confidence, count, guesses, correct, lower <= eps, sentence)


def _clipped_rows(own: Gradients, clip: float) -> Tensor:
    """The clipped gradients of samples as rows, float64."""
    rows = torch.cat([g.reshape(len(g), -1) for g in own.values()], 1).double()
    factors: Tensor = clip / rows.norm(dim=1, keepdim=True).clamp_min(clip)
    return rows * factors


def _flat(total: dict[str, Tensor]) -> Tensor:
    return torch.cat([each.reshape(-1) for each in total.values()]).double()


def _in_batch(rows: Tensor, total: Tensor, chance: Tensor, deviation: float) -> NDArray[np.float64]:
    """The linear estimate with the least mean square error of which samples are in a sum of their clipped gradients `rows` [N, P] and
    noise, given the chance of each to be."""
    chance = chance.double()
    noise_to_signal = deviation**2 / (chance * (1 - chance)).clamp_min(1e-6)
    gram = rows @ rows.T
    found = torch.linalg.solve(gram + torch.diag(noise_to_signal), rows @ total - gram @ chance)
    return (chance + found).numpy()  # type: ignore[no-any-return]


def _right(scores: NDArray[np.float64], included: NDArray[np.bool_], guesses: int) -> int:
    order = np.argsort(scores, kind="stable")
    outside = guesses // 2
    return int((~included[order[:outside]]).sum() + included[order[len(order) - (guesses - outside) :]].sum())
