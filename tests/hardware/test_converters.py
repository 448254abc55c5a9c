"""Converters and wires around a crossbar: against loops over codes, exact circuits, and the constants of aihwkit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from trustsnn.conversion import convert
from trustsnn.errors import ConfigError
from trustsnn.hardware.converters import Converters, IRDrop, Noisy, reaching
from trustsnn.hardware.deploy import deploy
from trustsnn.hardware.twin import Chip, Layer
from trustsnn.models import build


def layer_of(*, inputs: int = 12, outputs: int = 5, seed: int = 0) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(inputs, outputs)
    linear.weight.data = torch.randn(outputs, inputs, generator=generator)
    linear.bias.data = torch.randn(outputs, generator=generator)
    return Layer(Chip(), "0", linear, True)


def nearest(value: float, low: float, high: float, values: int) -> float:
    """The nearest of even values from low to high, one after the other."""
    best = low
    for code in range(values):
        here = low + (high - low) * code / (values - 1)
        if abs(here - value) < abs(best - value):
            best = here
    return best


@pytest.mark.parametrize(("bits", "bound"), [(7, 1.0), (2, 1.0), (5, 0.7)])
def test_inputs_become_the_nearest_code(bits, bound):
    x = torch.linspace(-1.4, 1.4, 203).view(7, 29)
    found = Converters(input_bits=bits, input_bound=bound).inputs(layer_of())(x)
    expected = [nearest(float(value), -bound, bound, 2**bits - 1) for value in x.flatten()]
    np.testing.assert_allclose(found.flatten().numpy(), expected, atol=1e-6)


def test_sums_become_the_nearest_code_beside_the_bias():
    layer = layer_of()
    largest, bias = float(layer.synapses.weight.detach().abs().max()), layer.synapses.bias.detach()
    sums = 20 * torch.rand(40, 5, generator=torch.Generator().manual_seed(1)) * largest - 10 * largest
    sums[0], sums[1], sums[2] = 1000.0, -1000.0, bias
    found = Converters(noise=0.0).outputs(layer)(sums)
    for row, one in zip(found, sums, strict=True):
        for value, y, b in zip(row.tolist(), one.tolist(), bias.tolist(), strict=True):
            assert value == pytest.approx(b + nearest(y - b, -12 * largest, 12 * largest, 511), abs=2e-5 * largest)
    assert torch.equal(found[2], bias)  # no input, no error
    assert found[0].tolist() == pytest.approx((bias + 12 * largest).tolist())


def test_the_constants_are_those_of_aihwkit():
    """IOParameters: inp_res 1/(2^7-2) of a range of 2 x 1, out_res 1/(2^9-2) of 2 x 12, out_noise .06; the largest weight is 1."""
    layer = layer_of(outputs=1)
    layer.synapses.weight.data /= layer.synapses.weight.abs().max()
    layer.synapses.bias.data.zero_()
    many = torch.linspace(-15, 15, 40_001).view(-1, 1)
    values = Converters().inputs(layer)(many / 12).unique()
    assert len(values) == 127
    assert values.diff().numpy() == pytest.approx(2 / (2**7 - 2), abs=1e-6)
    noisy = Converters().outputs(layer)
    values = noisy.over_time()(many).unique()
    assert len(values) == 511
    assert values.diff().numpy() == pytest.approx(24 / (2**9 - 2), abs=1e-5)
    assert float(noisy.sigma) == pytest.approx(0.06)
    assert torch.equal(Converters().inputs(layer)(torch.eye(3)), torch.eye(3))  # spikes are exact


def test_output_noise_has_its_sigma(draws_of):
    layer, count = layer_of(), 20_000
    sums = torch.zeros(2 * count, 5)
    noise = Converters(output_bits=16).outputs(layer)(sums, range(2), draws_of(count))
    largest = float(layer.synapses.weight.detach().abs().max())
    measured = float((noise / largest).double().square().sum())
    low, high = chi2.ppf([0.0005, 0.9995], noise.numel()) * 0.06**2
    assert low < measured < high  # 200,000 draws: to .5 %
    assert abs(np.corrcoef(noise[:count, 0], noise[count:, 0])[0, 1]) < 5 / np.sqrt(count)  # each step has its own


def test_gradients_pass_inside_the_range_alone():
    layer = layer_of()
    x = torch.tensor([[-1.3, -0.99, 0.0, 0.4, 2.0]], requires_grad=True)
    Converters().inputs(layer)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1, 0]]


def test_each_layer_has_its_own_range_and_no_noise_leaves_the_network_deterministic(image_network):
    network, _ = image_network
    chip = deploy(network, [Converters(noise=0.0)])
    assert not chip.spec.stochastic
    assert deploy(network, [Converters()]).spec.stochastic
    noisy = [m for m in deploy(network, [Converters()]).layers if isinstance(m, Noisy)]
    weights = [m for m in chip.layers if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [float(n.sigma) for n in noisy] == pytest.approx([0.06 * float(w.weight.detach().abs().max()) for w in weights])


def test_converters_refuse_a_bit_serial_network():
    network = convert(build("mlp", input_shape=(1, 4, 4), classes=3, neuron="qcfs", levels=3), "bit-serial")
    with pytest.raises(ConfigError, match="bit-serial"):
        deploy(network, [Converters()])


@pytest.mark.parametrize(
    ("make", "settings", "name"),
    [
        (Converters, {"input_bits": 1}, "input_bits"),
        (Converters, {"output_bits": 9.5}, "output_bits"),
        (Converters, {"output_bound": 0.0}, "output_bound"),
        (Converters, {"noise": -0.1}, "noise"),
        (Converters, {"noise": float("nan")}, "noise"),
        (IRDrop, {"wire": -1.0}, "wire"),
        (IRDrop, {"conductance": 0}, "conductance"),
        (IRDrop, {"rows": 0}, "rows"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings, name):
    with pytest.raises(ConfigError, match=name):
        make(**settings)


def crossbar(volts: np.ndarray, siemens: np.ndarray, wire: float, row_wire: float) -> np.ndarray:
    """The currents into the converters behind the last row, each at 0 V, of a crossbar with rows driven at the first column, by nodal
    analysis: conductances [rows, columns], `wire` ohm in the columns, `row_wire` in the rows, half of each at the ends."""
    rows, columns = siemens.shape
    nodes = 2 * rows * columns
    matrix, right = np.zeros((nodes, nodes)), np.zeros(nodes)

    def join(a: int, b: int | None, conductance: float, volt: float = 0.0) -> None:
        matrix[a, a] += conductance
        if b is None:
            right[a] += conductance * volt
        else:
            matrix[b, b] += conductance
            matrix[a, b] -= conductance
            matrix[b, a] -= conductance

    for row in range(rows):
        for column in range(columns):
            on_row = row * columns + column
            on_column = rows * columns + on_row
            join(on_row, on_column, siemens[row, column])
            if column:
                join(on_row, on_row - 1, 1 / row_wire)
            else:
                join(on_row, None, 2 / row_wire, volts[row])
            if row:
                join(on_column, on_column - columns, 1 / wire)
            if row == rows - 1:
                join(on_column, None, 2 / wire)
    found = np.linalg.solve(matrix, right)
    return 2 / wire * found[rows * columns + (rows - 1) * columns :]


@pytest.fixture
def cells():
    """Conductances [16 rows, 16 columns] up to 25 uS, and voltages of the rows."""
    draws = np.random.default_rng(0)
    return 25e-6 * draws.random((16, 16)), draws.random(16)


@pytest.mark.parametrize("wire", [0.15, 0.35, 2000.0])
def test_shares_are_those_of_the_exact_circuit(cells, wire):
    siemens, volts = cells
    expected = crossbar(volts, siemens, wire, row_wire=1e-7)
    found = ((siemens * volts[:, None]).T * reaching(siemens.T, wire)).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found < siemens.T @ volts).all()


def test_rows_that_have_resistance_too_lose_more_than_the_model_says(cells):
    """The model leaves out the wires of the rows, as aihwkit does: on a square of cells it has about half of the loss."""
    siemens, volts = cells
    ideal = siemens.T @ volts
    exact = ideal - crossbar(volts, siemens, 0.35, row_wire=0.35)
    model = ideal - ((siemens * volts[:, None]).T * reaching(siemens.T, 0.35)).sum(1)
    assert 0.4 < model.sum() / exact.sum() < 0.6
    assert exact.max() / ideal.max() < 2e-3


def test_a_uniform_column_loses_what_the_simple_model_of_aihwkit_says():
    """aihwkit: y - c sum_j y_j (1 - (1 - j/n)^2) with c = a/2 - .2 a^2 + .05 a^3, a = n^2 g R; the exact column is tanh(sqrt a)/sqrt a."""
    for a in (0.05, 0.2, 0.5):
        kept = float(reaching(np.full(512, 1.0), a / 512**2).mean())
        assert kept == pytest.approx(np.tanh(np.sqrt(a)) / np.sqrt(a), rel=1e-4)
        assert kept == pytest.approx(1 - (0.5 * a - 0.2 * a**2 + 0.05 * a**3) * 2 / 3, abs=2e-3)


@pytest.mark.parametrize("inputs", [10, 16, 39])
def test_weights_are_those_of_their_tiles(inputs):
    """Two devices a weight, a tile's rest of wire, odd outputs from the other end, as many tiles as it takes."""
    weight = torch.randn(4, inputs, generator=torch.Generator().manual_seed(2)).double()
    twin = IRDrop(wire=50.0, rows=16)
    found = twin.weights(weight, layer_of())
    pieces = -(-inputs // 16)
    used = -(-inputs // pieces)
    before = (16 - used) // 2
    for output in range(4):
        for row in range(inputs):
            tile, place = divmod(row, used)
            column = np.zeros((16, 1))
            here = weight[output, tile * used : (tile + 1) * used].abs().numpy()
            column[before : before + len(here), 0] = here * 25e-6 / float(weight.abs().max())
            volts = np.zeros(16)
            volts[before + place] = 1.0
            if output % 2:
                column, volts = column[::-1], volts[::-1]
            current = crossbar(volts, column, 50.0, row_wire=1e-4)[0] * float(weight.abs().max()) / 25e-6
            assert abs(float(found[output, row])) == pytest.approx(current, rel=1e-5)
    assert torch.equal(found.sign(), weight.sign())


def test_wire_without_resistance_changes_nothing_and_more_of_it_takes_more():
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(IRDrop(wire=0.0).weights(weight, layer_of()), weight)
    kept = [float(IRDrop(wire=wire).weights(weight, layer_of()).abs().sum()) for wire in (0.15, 0.35, 5.0, 500.0)]
    assert kept == sorted(kept, reverse=True)
    assert 0 < kept[-1] < 0.5 * float(weight.abs().sum())
    assert torch.equal(IRDrop().weights(torch.zeros(2, 3), layer_of()), torch.zeros(2, 3))
