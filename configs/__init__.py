"""Presets: configurations that override some defaults of `aeent_jax.config`."""
