"""Federated training across devices on Flower, and what its audit needs."""
