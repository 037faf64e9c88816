"""Puts the folder configs into the package; the rest is in pyproject.toml."""

import setuptools

setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["aeent_jax", "aeent_jax.*"]),
        "aeent_jax.configs",
    ],
    package_dir={"aeent_jax.configs": "configs"},
)
