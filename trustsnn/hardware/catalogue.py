"""The hardware twins by name. Light: it imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class TwinEntry(NamedTuple):
    """Where the class of a twin is ("module:name"), one line on it, and its source."""

    target: str
    description: str
    source: str


_HERE = "trustsnn.hardware"

TWINS: dict[str, TwinEntry] = {
    "pcm": TwinEntry(
        f"{_HERE}.pcm:PCM",
        "phase-change memory: programming noise, drift over time, read noise",
        "aihwkit; Joshi Nat. Commun. 2020",
    ),
    "rram": TwinEntry(f"{_HERE}.rram:RRAM", "resistive memory: programming noise", "CrossSim; Wan Nature 2022, Milo IRPS 2021"),
    "sram": TwinEntry(
        f"{_HERE}.sram:SRAM",
        "4- or 8-bit weights with bit errors; noise of sums in 8T memory",
        "RandBET, Stutz MLSys 2021; our assumption",
    ),
    "stuck-at": TwinEntry(f"{_HERE}.faulty:StuckAt", "devices of a crossbar stuck at 0 or at the highest", "MNSIM 2.0"),
    "mismatch": TwinEntry(
        f"{_HERE}.mismatch:Mismatch", "analog neurons, each with a leak and a threshold of its own", "rockpool"
    ),
    "adc": TwinEntry(
        f"{_HERE}.converters:Converters",
        "converters to analog and back around each layer, with output noise",
        "aihwkit (Rasch 2021, arXiv 2104.02184), IOParameters",
    ),
    "ir-drop": TwinEntry(
        f"{_HERE}.converters:IRDrop", "voltage lost along the wires of a crossbar", "aihwkit, IOParametersIRDropT"
    ),
    "in-sensor": TwinEntry(
        f"{_HERE}.in_sensor:InSensor",
        "first layer computed by the pixels: analog noise and a converter of few bits",
        "P2M (Datta 2022, arXiv 2203.04737), RedEye (LiKamWa ISCA 2016)",
    ),
    "sensor-noise": TwinEntry(f"{_HERE}.in_sensor:SensorNoise", "photon and read noise of a camera", "EMVA 1288"),
    "spike-loss": TwinEntry(f"{_HERE}.transport:SpikeLoss", "spikes lost between layers", "trustsnn"),
    "jitter": TwinEntry(f"{_HERE}.transport:Jitter", "spikes moved in time between layers", "trustsnn"),
    "dvs-noise": TwinEntry(
        f"{_HERE}.dvs:DVSNoise",
        "shot noise and leak of an event camera in good light",
        "v2e (Hu 2021, arXiv 2006.07722), defaults",
    ),
    "dvs-noisy": TwinEntry(f"{_HERE}.dvs:NoisyDVS", "the same in little light", "v2e, its preset noisy"),
    "loihi": TwinEntry(f"{_HERE}.loihi:Loihi", "Loihi 1 in its own integers, bit by bit", "lava; Davies IEEE Micro 2018"),
    "spinnaker": TwinEntry(
        f"{_HERE}.spinnaker:SpiNNaker", "weights and neurons in s16.15 fixed point", "Hopkins 2020, sPyNNaker"
    ),
    "speck": TwinEntry(f"{_HERE}.speck:Speck", "8-bit weights, 16-bit neurons without leak, nine cores", "sinabs"),
    "xylo": TwinEntry(f"{_HERE}.xylo:Xylo", "8-bit weights, 16-bit neurons that decay by bit shifts", "rockpool, xylosim"),
}
