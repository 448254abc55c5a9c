"""What a model is, as lines for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trustsnn.blocks import frozen, is_stochastic, observe
from trustsnn.checkpoint import model_hash
from trustsnn.data.split import stratified
from trustsnn.errors import ConfigError
from trustsnn.language import SpikeGPT
from trustsnn.models import SpikingNetwork
from trustsnn.models.branches import Branches
from trustsnn.models.flow import Flow, Kind, inputs_of
from trustsnn.models.observed import observed_inputs
from trustsnn.neurons import SpikingNeuron
from trustsnn.neurons.estimator import spiking_layers
from trustsnn.rng import Draws
from trustsnn.runners.resolve import first_batch, fit, resolve_data, resolve_model
from trustsnn.statistics import wilson_of_mean
from trustsnn.temporal import S4NN, AlphaNetwork

SAMPLES = 100


def describe_model(model: Any, weights: Path | None = None, data: Any = None, samples: int = SAMPLES) -> list[str]:
    """Specification, hash, every layer with its parameters, and which layers are fed with something other than spikes. With
    `data` (as for an audit) also the share of neurons of each layer that spike at a step, over up to `samples` of its
    samples."""
    if samples < 1:
        raise ConfigError(f"Expected at least 1 sample, got {samples}.")
    if isinstance(model, SpikeGPT):
        if weights is not None or data is not None:
            raise ConfigError("A language model takes neither --weights nor --data.")
        return _language(model)
    network = resolve_model(model, weights)
    x = ids = None
    if data is not None:
        found = resolve_data(data, network.spec)  # type: ignore[arg-type]
        fit(network, found)
        chosen = stratified(found, "test", samples) if samples < len(found) else found
        x, ids = first_batch(chosen, samples), tuple(chosen.ids)
    lines = [f"{key}: {value}" for key, value in network.spec.to_dict().items()]  # type: ignore[union-attr, operator]
    lines.append(f"hash: {model_hash(network)}")
    total = sum(parameter.numel() for parameter in network.parameters())
    inputs = network.inputs() if isinstance(network, S4NN | AlphaNetwork) else None
    neurons = len(spiking_layers(network) if inputs is None else inputs)
    lines.append(f"parameters: {total:,} in all; spiking layers: {neurons}")
    rates = _rates(network, x, ids) if x is not None and ids is not None else {}
    for name, module in network.named_modules():
        if isinstance(module, Branches):
            lines.append(f"  {name}: Branches({module.extra_repr()})")
        elif name in rates or not list(module.children()):
            count = sum(parameter.numel() for parameter in module.parameters())
            own = f", {count:,} parameters" if count else ""
            lines.append(f"  {name}: {module}{own}{rates.get(name, '')}")
    for name, weights_ in network.named_parameters(recurse=False):
        lines.append(f"  {name}: {list(weights_.shape)}, {weights_.numel():,} parameters{rates.get(name, '')}")
    known = {name for name, _ in [*network.named_modules(), *network.named_parameters(recurse=False)]}
    lines += [f"  {name}{told}" for name, told in rates.items() if name not in known]  # neurons that are no module of their own
    return lines + _spike_only(network, x, inputs)


def _language(model: SpikeGPT) -> list[str]:
    """The same of a language model."""
    told = model.describe()
    return [
        f"language model over {told['symbols']} symbols",
        *(f"{key}: {value}" for key, value in model.architecture.items() if key != "alphabet"),
        f"hash: {model_hash(model)}",
        f"parameters: {told['parameters']:,} in all; spiking layers: {len(told['spiking_layers'])}",
        *(f"  {name}" for name in told["spiking_layers"]),
        "spike-only: no",
        *(f"  {part}: {computation}" for part, computation in told["real_valued"].items()),
    ]


def _rates(network: nn.Module, x: Tensor, ids: tuple[str, ...]) -> dict[str, str]:
    """The spike rate of each layer, in words, by the layer's name."""
    draws = Draws(0, "inspect", ids) if is_stochastic(network) else None
    with frozen(network):
        seen = observe(network, x, draws).spikes
    words, layers = {}, dict(network.named_modules())
    for name, (fired, places) in seen.items():
        layer = layers.get(name)
        if isinstance(layer, SpikingNeuron) and not layer.binary:
            continue
        low, high = wilson_of_mean(fired / places, len(x))
        words[name] = f", spike rate {fired / places:.4f} of {len(x)} samples (95 % interval {low:.4f} to {high:.4f})"
    return words


def _spike_only(network: nn.Module, x: Tensor | None, inputs: dict[str, Flow] | None) -> list[str]:
    """Whether every layer with weights is fed with spikes, and each one that is not; `inputs` of a network that says it itself."""
    if inputs is not None:
        found, basis = inputs, "by its structure"
    elif isinstance(network, SpikingNetwork):
        found, basis = inputs_of(network), "by its structure"
    elif x is None:
        return ["spike-only: not known; what flows in a wrapped module shows on data (--data)"]
    else:
        with frozen(network):
            found, basis = observed_inputs(network, x), f"by what its modules get on {len(x)} samples"
        if not found:
            return ["spike-only: not known; none of its modules has weights that could be watched"]
    other = _named(found, "real", "sums")
    lines = [f"spike-only, {basis}: {'no' if other else 'yes'}", *other]
    lines += [f"{line}: the encoder's layer" for line in _named(found, "encoder")]
    return lines + [f"{line}: each spike adds a fixed share of a weight" for line in _named(found, "averages")]


def _named(found: dict[str, Flow], *kinds: Kind) -> list[str]:
    return [f"  input of {name}: {flow.what}" for name, flow in found.items() if flow.kind in kinds]
