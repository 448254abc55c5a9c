"""Hardening: robust training, private conversion, selective sealing, private training, certificates."""
