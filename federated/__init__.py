"""Federated training across devices and its audit. Nothing is here yet."""
