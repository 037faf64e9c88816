"""Entropy-controlled autoencoders for medical anomaly detection, in JAX."""

__version__ = "0.2.0"
