"""The strategies by name. Light: it imports neither torch nor Flower."""

from __future__ import annotations

from trustsnn.plugins import Entry

_HERE = "trustsnn.federated.strategies"
STRATEGIES = {
    "fedavg": Entry(f"{_HERE}:FedAvg", "the mean, weighted by samples (McMahan 2017)"),
    "fedmedian": Entry(f"{_HERE}:FedMedian", "the median of each value (Yin 2018)"),
    "fedtrimmedavg": Entry(f"{_HERE}:FedTrimmedAvg", "the mean without the share beta at either end (Yin 2018)"),
    "krum": Entry(f"{_HERE}:Krum", "the one update nearest to its neighbours, of whom `malicious` may lie (Blanchard 2017)"),
    "multikrum": Entry(f"{_HERE}:MultiKrum", "the mean of all but `malicious` updates, by the same rule (Blanchard 2017)"),
    "bulyan": Entry(f"{_HERE}:Bulyan", "Multi-Krum's choice, then the mean nearest to the median (Mhamdi 2018)"),
}
