"""Hardening: robust training, private conversion, sealing, private training, certificates. Nothing is here yet."""
