"""Makes `python -m aeent_jax` the same as `aeent`."""

from aeent_jax.cli import main

if __name__ == "__main__":
    main.main()
