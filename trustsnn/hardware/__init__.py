"""Twins of neuromorphic hardware: a network as a chip runs it, with the chip's noise, precision and faults."""
