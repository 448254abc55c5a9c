"""NIR graphs as models: the frameworks' own spikes, every node against a scalar loop, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from trustsnn.attacks.estimators import estimator
from trustsnn.errors import ConfigError, UnsafeArtifactError
from trustsnn.interop import hdf5_writer, nir
from trustsnn.interop.graph_model import GraphModel
from trustsnn.interop.nir_graph import Graph, Node, tree_of
from trustsnn.models import SpikingNetwork
from trustsnn.neurons import Dynamics, SpikingNeuron
from trustsnn.neurons.estimator import neurons_of
from trustsnn.neurons.heterogeneous import Constants, Heterogeneous

DATA = Path(__file__).parent / "data"
READ = nir.Settings(dt=1e-3, time_steps=6)


def array(*values):
    return np.array(values, np.float64)


def written(path, nodes, edges=None, metadata=None):
    """A file of these nodes, in a row unless there are edges."""
    names = list(nodes)
    graph = Graph({name: Node(*node) for name, node in nodes.items()}, edges or list(pairwise(names)))
    graph.metadata = metadata or {}
    path.write_bytes(hdf5_writer.encode(tree_of(graph)))
    return path


def around(*nodes, inputs=(3,), outputs=(3,)):
    """Nodes by number between an input and an output."""
    middle = {str(number): node for number, node in enumerate(nodes)}
    return {"input": ("Input", {"shape": np.array(inputs)}), **middle, "output": ("Output", {"shape": np.array(outputs)})}


LIF = ("LIF", {"tau": array(2e-3), "r": array(2.0), "v_leak": array(0.0), "v_threshold": array(1.0), "v_reset": array(0.0)})
AFFINE = ("Affine", {"weight": np.eye(3), "bias": array(0.1, 0.2, 0.3)})
CONVOLUTION = {"stride": np.int64(1), "padding": np.int64(0), "dilation": np.int64(1), "groups": np.int64(1)}


# Graphs of the frameworks


@pytest.mark.parametrize(("name", "dt", "kind"), [("snntorch", 1e-4, SpikingNetwork), ("norse", 1e-6, GraphModel)])
def test_graphs_of_the_frameworks_spike_as_in_the_framework(name, dt, kind):
    """Inputs and outputs were recorded with the framework itself: see `test_nir_peers.py`."""
    recorded = np.load(DATA / f"{name}.npz")
    x, *outputs = (torch.from_numpy(recorded[key]) for key in recorded.files)
    model = nir.read(DATA / f"{name}.nir", nir.Settings(dt=dt, time_steps=12))
    trace = model.unroll(x)
    assert type(model) is kind
    torch.testing.assert_close(trace.logits, outputs[-1], atol=1e-6, rtol=0)
    counts = list(trace.spike_counts.values())
    assert len(counts) == (2 if name == "snntorch" else 1)
    for count, spikes in zip(counts, outputs, strict=False):
        assert spikes.sum() > 30
        assert torch.equal(count, spikes.sum(0))


def test_a_soft_reset_that_the_file_lost_is_given_back_by_a_setting():
    hard, soft = (nir.read(DATA / "snntorch.nir", nir.Settings(dt=1e-4, time_steps=12, reset=reset)) for reset in (None, "soft"))
    assert {n.dynamics.reset for n in neurons_of(hard)} == {"hard"}
    assert {n.dynamics.reset for n in neurons_of(soft)} == {"soft"}


# Every node with dynamics, against a loop over numbers


def scalar(kind, p, x, dt, reset):
    """Forward Euler of one neuron, in NIR's own words."""
    v, i, out = p.get("v_leak", 0.0), 0.0, []
    for s in x:
        if "tau_syn" in p:
            i = s = i + dt / p["tau_syn"] * (-i + p["w_in"] * s)
        tau = p.get("tau", p.get("tau_mem"))
        v = v + dt * p["r"] * s if tau is None else v + dt / tau * ((p["v_leak"] - v) + p["r"] * s)
        if not kind.endswith("IF"):
            out.append(v)
            continue
        fired = v > p["v_threshold"]
        out.append(float(fired))
        v = v if not fired else v - p["v_threshold"] if reset == "soft" else p["v_reset"]
    return out


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("kind", ["I", "LI", "IF", "LIF", "CubaLI", "CubaLIF"])
def test_each_node_is_the_differential_equation_by_forward_euler(kind, alike, reset, tmp_path):
    draw, dt, steps = np.random.default_rng(0), 1e-3, 40
    names = {"I": "r", "LI": "tau r v_leak", "IF": "r v_threshold v_reset", "LIF": "tau r v_leak v_threshold v_reset"}
    names |= {"CubaLI": "tau_syn tau_mem r v_leak w_in", "CubaLIF": "tau_syn tau_mem r v_leak v_threshold v_reset w_in"}
    low = {"tau": (2e-3, 9e-3), "tau_syn": (2e-3, 9e-3), "tau_mem": (2e-3, 9e-3), "v_leak": (-0.2, 0.2), "v_reset": (-0.3, 0.1)}
    low |= {"r": (3.0, 6.0) if kind not in ("I", "IF") else (200, 400), "v_threshold": (0.3, 0.8), "w_in": (1, 3)}
    values = {name: np.resize(draw.uniform(*low[name], 1 if alike else 3), 3) for name in names[kind].split()}
    values |= {name: np.zeros(3) for name in ("v_leak", "v_reset") if alike and name in values}
    path = written(tmp_path / "m.nir", around((kind, values)))
    model = nir.read(path, nir.Settings(dt=dt, time_steps=steps, reset=reset, domain="events-binary"))
    x = draw.integers(0, 2, (2, steps, 3)).astype(np.float32)
    got = model.unroll(torch.from_numpy(x)).logits
    for neuron in range(3):
        p = {name: float(value[neuron]) for name, value in values.items()}
        for sample in range(2):
            expected = scalar(kind, p, x[sample, :, neuron].tolist(), dt, reset)
            assert got[:, sample, neuron].tolist() == pytest.approx(expected, abs=1e-5)
            assert not kind.endswith("IF") or 0 < sum(expected) < steps
    plain = any(type(m) is SpikingNeuron for m in model.modules())
    assert plain == (alike and kind in ("IF", "LIF"))


def test_delay_threshold_scale_and_pools(tmp_path):
    nodes = around(
        ("Scale", {"scale": array(2, 3, 4)}), ("Delay", {"delay": array(0, 1e-3, 3e-3)}), ("Threshold", {"threshold": array(1.5, 2.0, 3.0)})
    )  # fmt: skip
    model = nir.read(written(tmp_path / "m.nir", nodes), nir.Settings(dt=1e-3, time_steps=5, domain="events-count", max_count=9))
    x = torch.tensor([[[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]])
    expected = [[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert model.unroll(x).logits[:, 0].tolist() == expected
    image = torch.arange(32.0).view(1, 2, 4, 4) / 32
    for kind, expect in (
        ("SumPool2d", torch.nn.functional.avg_pool2d(image, 2) * 4),
        ("AvgPool2d", torch.nn.functional.avg_pool2d(image, 2)),
    ):
        pool = (kind, {"kernel_size": np.array([2, 2]), "stride": np.array(2), "padding": np.array([0, 0])})
        flat = ("Flatten", {"start_dim": np.int64(0), "end_dim": np.int64(-1)})
        path = written(tmp_path / "m.nir", around(pool, flat, inputs=(2, 4, 4), outputs=(8,)))
        assert torch.equal(nir.read(path, READ)(image), expect.flatten(1))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions_with_kernels_that_are_no_squares(padding, tmp_path):
    draw = np.random.default_rng(0)
    weight, bias = draw.normal(size=(4, 2, 3, 5)), draw.normal(size=4)
    node = ("Conv2d", {**CONVOLUTION, "weight": weight, "bias": bias, "padding": padding})
    x = torch.rand(2, 2, 6, 8)
    want = torch.nn.functional.conv2d(x, *(torch.tensor(v, dtype=torch.float32) for v in (weight, bias)), padding=padding)
    flat = ("Flatten", {"start_dim": np.int64(0), "end_dim": np.int64(-1)})
    wrong = (4 * 4 * 6,)  # what nir infers: it takes the kernel for 3 x 3
    path = written(tmp_path / "m.nir", around(node, flat, inputs=(2, 6, 8), outputs=wrong))
    torch.testing.assert_close(nir.read(path, READ)(x), want.flatten(1))
    node = ("Conv1d", {**CONVOLUTION, "weight": weight[:, :, 0], "bias": bias, "padding": padding})
    model = nir.read(
        written(tmp_path / "m.nir", around(node, flat, inputs=(2, 8), outputs=(32 if padding == "same" else 16,))), READ
    )
    want = torch.nn.functional.conv1d(
        x[:, :, 0], *(torch.tensor(v, dtype=torch.float32) for v in (weight[:, :, 0], bias)), padding=padding
    )
    torch.testing.assert_close(model(x[:, :, 0]), want.flatten(1))


def test_forks_that_end_in_one_place_become_branches(tmp_path):
    nodes = around(*(("Linear", {"weight": np.eye(3) * (n + 1)}) for n in range(5)), LIF)
    edges = [("input", "0"), ("0", "1"), ("0", "4"), ("1", "2"), ("1", "3"), ("2", "4"), ("3", "4"), ("4", "5"), ("5", "output")]
    model = nir.read(written(tmp_path / "m.nir", nodes, edges), READ)
    assert type(model) is SpikingNetwork
    x = torch.rand(2, 3)
    currents = model.distances(x)[1]["layers.5"][0] + float(neurons_of(model)[0].threshold)
    torch.testing.assert_close(currents, 5 * (1 + 2 * 3 + 2 * 4) * x)


def test_edges_add_up_in_any_acyclic_graph(tmp_path):
    """0 feeds 1 and 2, 1 feeds 2 and the output: neither a sequence nor parallel branches."""
    linear = {n: ("Linear", {"weight": np.eye(3) * (n + 2)}) for n in range(3)}
    nodes = {"input": ("Input", {"shape": np.array([3])}), **{str(n): node for n, node in linear.items()}}
    nodes["output"] = ("Output", {"shape": np.array([3])})
    edges = [("input", "0"), ("0", "1"), ("0", "2"), ("1", "2"), ("1", "output"), ("2", "output")]
    model = nir.read(written(tmp_path / "m.nir", nodes, edges), READ)
    assert type(model) is GraphModel
    assert model(torch.ones(1, 3)).tolist() == [[2 * 3 + 4 * (2 + 2 * 3)] * 3]


# What is left open, and what is refused


def test_settings_come_from_the_caller_then_the_node_then_the_graph(tmp_path):
    metadata = {"dt": np.float64(1e-3), "time_steps": np.int64(9), "reset": "soft", "comparator": ">="}
    path = written(tmp_path / "m.nir", around((*LIF, {"comparator": ">"})), metadata=metadata)
    model = nir.read_named(f"{path}:time_steps=4,reset=hard")
    (neuron,) = neurons_of(model)
    assert (model.spec.steps, neuron.dynamics.reset, neuron.dynamics.comparator) == (4, "hard", ">")
    assert (float(neuron.leak), neuron.dynamics.gain) == (0.5, "unit")


def test_the_rate_of_integrate_and_fire_is_per_second_or_per_step(tmp_path):
    node = ("IF", {"r": np.ones(3), "v_threshold": np.ones(3)})
    path = written(tmp_path / "m.nir", around(node))
    second, step = (neurons_of(nir.read(path, replace(READ, per=per)))[0] for per in (None, "step"))
    assert float(second.threshold) == pytest.approx(1000)  # v grows by dt r x: in units of that, V is 1000
    assert float(step.threshold) == 1


def test_a_batch_of_one_in_the_input_is_left_out(tmp_path):
    path = written(tmp_path / "m.nir", around(AFFINE, LIF, inputs=(1, 3), outputs=(1, 3)))
    assert nir.read(path, READ).spec.input_shape == (3,)
    assert nir.read(path, replace(READ, input_shape=(1, 1, 3)))(torch.ones(2, 1, 1, 3)).shape == (2, 3)


def changed(node, **values):
    return (node[0], {**node[1], **values})


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        (around(changed(LIF, tau=array(1e-5))), UnsafeArtifactError, r"node '0' \(LIF\): expected tau of at least the time step 0.001"),
        (around(changed(LIF, v_threshold=array(-1.0))), UnsafeArtifactError, "node '0' .*thresholds above 0"),
        (around(changed(LIF, r=array(float("nan")))), UnsafeArtifactError, "node '0' .*finite numbers as r"),
        (around(changed(LIF, r=array(1, 2, 3, 4))), UnsafeArtifactError, "node '0' .*does not fit"),
        (around(changed(LIF, r=array(1, 2, 3), tau=array(1, 2))), UnsafeArtifactError, "node '0' .*values of one shape"),
        (around(("LIF", {"tau": array(1)})), UnsafeArtifactError, "node '0'.*expected the values tau, r"),
        (around(("GRU", {})), UnsafeArtifactError, "node '0'.*one of Input, Output"),
        (around(changed(AFFINE, weight=np.eye(4))), UnsafeArtifactError, "node '0' .*bias"),
        (around(("Linear", {"weight": np.eye(4)})), UnsafeArtifactError, r"node '0' \(Linear\): an input of \[3\] does not fit it"),
        (around(LIF, outputs=(4,)), UnsafeArtifactError, "node 'output' .*claims"),
        (around(("Delay", {"delay": array(0.5e-3)})), UnsafeArtifactError, "node '0' .*whole number of time steps"),
        (
            around(("AvgPool2d", {"kernel_size": np.int64(2), "stride": np.int64(0), "padding": np.int64(0)}), inputs=(1, 4, 4)),
            UnsafeArtifactError,
            "node '0' .*stride of at least 1",
        ),
        (
            around(("Conv2d", {**CONVOLUTION, "weight": np.ones((1, 1, 1, 1)), "bias": array(0)}), inputs=(1, 1 << 20, 1 << 20)),
            UnsafeArtifactError,
            "node 'input' .*it would give",
        ),
        (
            around(changed(("Conv2d", CONVOLUTION), weight=np.ones((1, 1, 1, 1)), bias=array(0), padding=np.int64(1 << 30)), inputs=(1, 4, 4)),
            UnsafeArtifactError,
            "node '0' .*beyond its kernel",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_represented_is_refused_by_its_node(nodes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        nir.read(written(tmp_path / "m.nir", nodes), READ)


def test_recurrence_is_refused_by_its_node(tmp_path):
    edges = [("input", "0"), ("0", "1"), ("1", "0"), ("1", "output")]
    with pytest.raises(UnsafeArtifactError, match=r"node '0' .*circle"):
        nir.read(written(tmp_path / "m.nir", around(AFFINE, LIF), edges), READ)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("time_steps=6", "has no time step.*dt=1e-4.*snnTorch and SpikingJelly export with 1e-4, Norse with 1e-3"),
        ("dt=1e-3", "how many time steps"),
        ("dt=0,time_steps=6", "dt above 0"),
        ("dt=1e-3,steps=6", "names of dt, time_steps"),
        ("dt=soon", "Expected a value of dt, got 'soon'"),
        ("dt=1e-3,time_steps=6,reset=never", "reset to be one of"),
        ("dt=1e-3,time_steps=6,encoder=frames", "does not fit the domain"),
        ("dt=1e-3,time_steps=6,input_shape=1x2x2", "does not hold samples"),
    ],
)
def test_what_is_left_open_is_asked_for(settings, message, tmp_path):
    path = written(tmp_path / "m.nir", around(LIF))
    with pytest.raises(ConfigError, match=message):
        nir.read_named(f"{path}:{settings}")


@pytest.mark.parametrize("name", ["rga", "pdsg"])
def test_a_gain_is_a_factor_of_the_current_to_an_estimator(name):
    value = {key: torch.tensor(v) for key, v in {"leak": 0.75, "threshold": 1.0, "rest": 0.25, "after": 0.125}.items()}
    gained, plain = (Heterogeneous(Constants(gain=torch.tensor(gain), **value), Dynamics(0.75)) for gain in (4.0, 1.0))
    current = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(0)).mul(0.6).requires_grad_()
    weights = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for neuron, factor in ((gained, 1.0), (plain, 4.0)):
        with estimator(name).applied(neuron):
            spikes = neuron(factor * current)
            found.append((spikes, torch.autograd.grad((spikes * weights).sum(), current)[0]))
    assert 0 < found[0][0].mean() < 1
    assert found[0][1].any()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("comparator", [">", ">="])
def test_alike_heterogeneous_neurons_are_plain_ones(reset, comparator):
    dynamics = Dynamics(0.75, 0.5, reset=reset, comparator=comparator)
    value = {
        name: torch.tensor(v) for name, v in {"leak": 0.75, "gain": 1.0, "threshold": 0.5, "rest": 0.0, "after": 0.0}.items()
    }
    plain, each = SpikingNeuron(dynamics), Heterogeneous(Constants(**value), dynamics)
    current = torch.randint(0, 3, (5, 4, 6), generator=torch.Generator().manual_seed(0)).float().div(4).requires_grad_()
    weights = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))
    results = []
    for neuron in (plain, each):
        spikes = neuron(current)
        (gradient,) = torch.autograd.grad((spikes * weights).sum(), current)
        results.append((spikes, neuron.unroll(current)[1], neuron.distances(current, spikes), gradient))
    assert 0 < results[0][0].mean() < 1
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
