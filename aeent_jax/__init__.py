"""Entropy-controlled autoencoders for medical anomaly detection, in JAX."""

__version__ = "0.2.0"


def __getattr__(name: str):
    # JAX and all else are imported when the detector is, not by every command.
    if name == "Detector":
        from aeent_jax.screening import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
