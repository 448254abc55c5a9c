"""Graphs that snnTorch 1.0.0 and Norse 1.1.0 export, against the frameworks themselves; and what nir 1.0.8 makes of our files.

`python tests/interop/test_nir_peers.py` writes the files under `data/` again: the graphs, and in .npz an input and each layer's spikes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

DATA = Path(__file__).parent / "data"
STEPS = 12


def snntorch_network():
    """As in snnTorch's tutorial 6 (convolution, pooling, linear), small, with the reset that NIR has."""
    import snntorch

    def leaky(beta, *shape):
        options = {"threshold": torch.full(shape, 0.4), "init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
        return snntorch.Leaky(beta=torch.full(shape, beta), **options)

    return nn.Sequential(
        nn.Conv2d(1, 4, 3), leaky(0.9, 4, 6, 6), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 10), leaky(0.8, 10)
    )  # fmt: skip


def norse_network():
    """Linear layers with LIF neurons, and a leaky integrator as the readout."""
    import norse.torch as norse

    p = norse.LIFBoxParameters(tau_mem_inv=torch.full((32,), 100.0), v_leak=torch.zeros(32), v_th=torch.linspace(0.05, 0.2, 32))
    return norse.SequentialState(nn.Linear(64, 32), norse.LIFBoxCell(p), nn.Linear(32, 10), norse.LIBoxCell())


def export_snntorch(network, path):
    import nir
    from snntorch.export_nir import export_to_nir

    nir.write(path, export_to_nir(network, torch.rand(1, 1, 8, 8), ignore_dims=[0]))


def export_norse(network, path):
    import nir
    from norse.torch.utils.export_nir import to_nir

    nir.write(path, to_nir(network, torch.rand(1, 64)))


def recorded(network, x, state):
    """The spikes of each layer of neurons and the outputs, at each step [T, B, ...], the same input at every step."""
    found, kept = {}, None
    hooks = [
        layer.register_forward_hook(lambda m, i, out, name=name: found.setdefault(name, []).append(out))
        for name, layer in network.named_children()
        if type(layer).__name__ in ("Leaky", "LIFBoxCell", "LIBoxCell")
    ]
    with torch.no_grad():
        for _ in range(STEPS):
            if state:
                _, kept = network(x, kept)
            else:
                network(x)
    for hook in hooks:
        hook.remove()
    return {name: torch.stack([out[0] if isinstance(out, tuple) else out for out in outs]) for name, outs in found.items()}


def made(kind):
    """A network, its input [B, ...], how to export it, and what it gives."""
    torch.manual_seed({"snntorch": 1, "norse": 2}[kind])
    if kind == "snntorch":
        network, x = snntorch_network(), torch.rand(4, 1, 8, 8)
        return network, x, export_snntorch, recorded(network, x, state=False)
    network, x = norse_network(), torch.rand(4, 64)
    return network, x, export_norse, recorded(network, x, state=True)


def main():
    for kind in ("snntorch", "norse"):
        network, x, export, outputs = made(kind)
        export(network, DATA / f"{kind}.nir")
        np.savez_compressed(DATA / f"{kind}.npz", x=x.numpy(), **{name: out.numpy() for name, out in outputs.items()})


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "dt"), [("snntorch", 1e-4), ("norse", 1e-6)])
def test_a_fresh_export_gives_what_the_framework_gives(kind, dt, tmp_path):
    from trustsnn.interop import nir

    _, x, export, outputs = made(kind)
    export(made(kind)[0], tmp_path / "graph.nir")
    model = nir.read(tmp_path / "graph.nir", nir.Settings(dt=dt, time_steps=STEPS))
    last = list(outputs.values())[-1]
    torch.testing.assert_close(model.unroll(x).logits, last, atol=1e-5, rtol=0)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["conv", "sew-resnet-small"])
def test_nir_reads_what_we_write(name, tmp_path):
    import nir as package

    from trustsnn.interop import nir
    from trustsnn.models import build

    model = build(name, input_shape=(1, 8, 8), classes=10, channels=0.25).eval()
    written = nir.write(model, tmp_path / "ours.nir", dt=1e-3).graph
    graph = package.read(tmp_path / "ours.nir")
    assert [type(n).__name__ for n in graph.nodes.values()].count("NIRGraph") == (3 if name != "conv" else 0)
    for key, node in written.nodes.items():
        if "." not in key and node.kind in ("LIF", "Affine", "Conv2d"):
            for value, array in node.values.items():
                assert np.array_equal(getattr(graph.nodes[key], value), array), (key, value)
    package.write(tmp_path / "theirs.nir", graph)  # gzip, chunks, strings of variable length, metadata
    x = torch.rand(4, 1, 8, 8)
    again = nir.read(tmp_path / "theirs.nir")
    assert torch.equal(again(x), nir.read(tmp_path / "ours.nir")(x))


if __name__ == "__main__":
    main()
