"""Small networks and what they count."""

from __future__ import annotations

import pytest

from trustsnn.energy import count


@pytest.fixture(scope="session")
def some(digits_test):
    """Twenty test samples."""
    return digits_test.take(20)


@pytest.fixture(scope="session")
def counts(digits_model, some):
    """The operations of the digits network. Do not change them."""
    return count(digits_model, some)
