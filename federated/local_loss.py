"""What a client adds to its loss so that its few classes and samples pull the global model less astray. Labels [B], logits [B, K]."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from trustsnn.errors import ConfigError

_ABSENT = 1e-9  # added to a class's share before its logarithm


def fedlec_loss(
    logits: Tensor, labels: Tensor, global_logits: Tensor, counts: Tensor, *, theta: float = 0.005, distillation: float = 0.1
) -> Tensor:
    """FedLEC (Yu et al., IJCAI 2025, arXiv 2412.17305; the authors' published code, defaults included): a scalar

        CE(z + log p, y)  +  theta sum_c p_c (log sum_i exp(m_ic (z_ic - log p_c - log K)) - log B)
                          +  lambda KL(softmax z'_absent || softmax z_absent)

    z are the client's logits, z' those of the global model, p the shares of the classes at the client, plus 1e-9 under the logarithm, and
    m_ic is 0 where i is of class c, else 1. The first term calibrates the logits by the shares; the second lowers those of a class on
    samples of others; the third, a mean over the batch, keeps the global model's belief among the classes that the client lacks, and
    is zero where it lacks none or one. In the second, a sample of class c counts as exp(0), as in the code.

    The second term mixes the samples of a batch and all read the labels of the whole client: with DP-SGD of samples, whose gradients
    must be each sample's own, it does not go together.

    Args:
        logits: [B, K], B >= 1.
        labels: [B], int64.
        global_logits: [B, K] of the same samples, taken as constants.
        counts: [K], the client's samples of each class; not all zero.

    Raises:
        ConfigError: shapes or counts that do not fit.
    """
    classes = logits.shape[-1]
    fits = (
        logits.dim() == 2
        and logits.shape == global_logits.shape
        and labels.shape == logits.shape[:1]
        and counts.shape == (classes,)
    )
    if not (fits and len(logits) and bool((counts >= 0).all()) and bool(counts.sum() > 0)):
        raise ConfigError(
            "Expected logits [B, K] of both models, labels [B] and counts [K] from 0, not all 0, got "
            f"{list(logits.shape)}, {list(global_logits.shape)}, {list(labels.shape)} and counts {counts.tolist()}."
        )
    share = counts.to(logits) / counts.sum().to(logits)
    prior = (share + _ABSENT).log()
    others = labels[:, None] != torch.arange(classes, device=labels.device)
    spread = (others * (logits - prior - math.log(classes))).logsumexp(0) - math.log(len(logits))
    absent = share == 0
    told, believed = global_logits.detach()[:, absent].log_softmax(1), logits[:, absent].log_softmax(1)
    kept = kl_div(believed, told, reduction="batchmean", log_target=True)
    return cross_entropy(logits + prior, labels) + theta * (share * spread).sum() + distillation * kept


def proximal(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor], mu: float) -> Tensor:
    """mu / 2 |w - w_global|^2 over all parameters (FedProx, Li et al. 2020, arXiv 1812.06127, equation 2), a scalar.

    Args:
        parameters: the client's, by name.
        start: those of the global model at the start of the round; constants. More tensors than `parameters` may be there.
        mu: from 0.
    """
    if not (mu >= 0 and math.isfinite(mu)):
        raise ConfigError(f"Expected mu of the proximal term from 0, got {mu}.")
    if missing := [name for name, w in parameters.items() if name not in start or start[name].shape != w.shape]:
        raise ConfigError(f"Expected the global model's {missing[0]} in the shape of the client's, to stay near it.")
    return 0.5 * mu * torch.stack([(w - start[name].detach()).square().sum() for name, w in parameters.items()]).sum()
