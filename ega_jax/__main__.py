"""`python -m ega_jax` is `ega-jax`."""

from ega_jax.cli import main

if __name__ == "__main__":
    main()
