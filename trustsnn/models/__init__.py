"""Bundled spiking networks, their specification and the contract that any audited model keeps."""

from trustsnn.models.contract import check_contract
from trustsnn.models.network import READOUTS, SpikingNetwork
from trustsnn.models.spec import Domain, ModelSpec, Trace
from trustsnn.models.zoo import MODELS, build, rebuild

__all__ = ["MODELS", "READOUTS", "Domain", "ModelSpec", "SpikingNetwork", "Trace", "build", "check_contract", "rebuild"]
