"""The networks of the tutorials of snnTorch, SpikingJelly and Norse, and how each of them is wrapped for an audit.

PYTHONPATH=benchmarks trustsnn audit tutorials:spikingjelly --weights models/peers/spikingjelly.safetensors --data mnist --out RUN

- `snntorch_dense`: tutorial 5, 784-1000-10 leaky neurons over 25 steps; the forward goes through time and returns (spikes, membranes).
- `snntorch`: tutorial 6, 12C5-MP2-64C5-MP2-FC10 as an `nn.Sequential` of one step, run 50 times, reset by whoever calls it.
- `spikingjelly`: conv_fashion_mnist, two convolutions of 128 channels and two fully connected layers in multi-step mode, 4 steps.
- `norse`: the MNIST classifier, a constant-current encoder, 100 recurrent LIF neurons and leaky integrators, 32 steps, read
  out as the largest membrane. Its images are normalised as in the tutorial, inside the module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import trustsnn

CHANNELS = 128  # of SpikingJelly's network


class DenseNet(nn.Module):
    """snnTorch's tutorial 5."""

    def __init__(self, steps: int = 25, hidden: int = 1000) -> None:
        import snntorch

        super().__init__()
        self.steps = steps
        self.fc1, self.lif1 = nn.Linear(28 * 28, hidden), snntorch.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(hidden, 10), snntorch.Leaky(beta=0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


def conv_net() -> nn.Sequential:
    """snnTorch's tutorial 6, one step."""
    import snntorch
    from snntorch import surrogate

    def leaky(output: bool = False) -> nn.Module:
        return snntorch.Leaky(beta=0.5, spike_grad=surrogate.fast_sigmoid(slope=25), init_hidden=True, output=output)

    return nn.Sequential(
        *(nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), leaky()), *(nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), leaky()),
        *(nn.Flatten(), nn.Linear(64 * 4 * 4, 10), leaky(output=True)),
    )  # fmt: skip


class CSNN(nn.Module):
    """SpikingJelly's conv_fashion_mnist. It leaves the reset to its caller."""

    def __init__(self, steps: int = 4, channels: int = CHANNELS) -> None:
        from spikingjelly.activation_based import functional, layer, neuron, surrogate

        def node() -> nn.Module:
            return neuron.IFNode(surrogate_function=surrogate.ATan())

        def block(inputs: int) -> tuple[nn.Module, ...]:
            convolution = layer.Conv2d(inputs, channels, 3, padding=1, bias=False)
            return convolution, layer.BatchNorm2d(channels), node(), layer.MaxPool2d(2, 2)

        super().__init__()
        self.steps = steps
        hidden = layer.Linear(channels * 7 * 7, channels * 4 * 4, bias=False)
        output = layer.Linear(channels * 4 * 4, 10, bias=False)
        self.conv_fc = nn.Sequential(*block(1), *block(channels), layer.Flatten(), hidden, node(), output, node())
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_fc(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)


class Classifier(nn.Module):
    """Norse's MNIST classifier, before its log-softmax."""

    def __init__(self, steps: int = 32, hidden: int = 100) -> None:
        import norse.torch as norse

        super().__init__()
        self.steps = steps
        self.encoder = norse.ConstantCurrentLIFEncoder(steps)
        neurons = norse.LIFParameters(alpha=torch.as_tensor(100.0), v_th=torch.as_tensor(0.5))
        self.l1 = norse.LIFRecurrentCell(28 * 28, hidden, p=neurons)
        self.fc_out = nn.Linear(hidden, 10, bias=False)
        self.out = norse.LICell()

    def forward(self, x: Tensor) -> Tensor:
        hidden = readout = None
        membranes = []
        for spikes in self.encoder((x.flatten(1) - 0.1307) / 0.3081).unbind(0):
            spikes, hidden = self.l1(spikes, hidden)
            membrane, readout = self.out(self.fc_out(spikes), readout)
            membranes.append(membrane)
        return torch.stack(membranes).amax(0)


def snntorch_dense() -> nn.Module:
    """Logits: the mean of the output spikes, which the tutorial counts."""
    return trustsnn.wrap(DenseNet(), time_steps=25, output=0)


def snntorch() -> nn.Module:
    """The same."""
    return trustsnn.wrap(conv_net(), time_steps=50, output=0)


def spikingjelly() -> nn.Module:
    """Logits: the module's own rates."""
    return trustsnn.wrap(CSNN(), time_steps=4)


def norse() -> nn.Module:
    """Logits: the module's own."""
    return trustsnn.wrap(Classifier(), time_steps=32)
