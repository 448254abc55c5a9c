"""Secure aggregation: the server learns the sum of the clients' updates and no single one of them.

The double-masking protocol of Bonawitz et al. 2017 (CCS, "Practical Secure Aggregation for Privacy-Preserving Machine Learning") against
an honest-but-curious server, with masks of 256 bits of entropy. What it protects and what it does not: docs/secure-aggregation.md.
"""

from trustsnn.federated.secure.client import Client
from trustsnn.federated.secure.driver import aggregate
from trustsnn.federated.secure.fixed_point import dequantise, flatten, layout_of, quantise, unflatten
from trustsnn.federated.secure.messages import (
    ADVERTISE_KEYS,
    MASKED_INPUT,
    SHARE_KEYS,
    STAGES,
    UNMASK,
    Cohort,
    MaskedInput,
    Message,
    PublicKeys,
    Record,
    SealedShares,
    Unmasking,
    UnmaskRequest,
)
from trustsnn.federated.secure.server import Server, Total
from trustsnn.federated.secure.settings import Settings

__all__ = [
    "ADVERTISE_KEYS",
    "Client",
    "Cohort",
    "MASKED_INPUT",
    "MaskedInput",
    "Message",
    "PublicKeys",
    "Record",
    "SHARE_KEYS",
    "STAGES",
    "SealedShares",
    "Server",
    "Settings",
    "Total",
    "UNMASK",
    "UnmaskRequest",
    "Unmasking",
    "aggregate",
    "dequantise",
    "flatten",
    "layout_of",
    "quantise",
    "unflatten",
]
