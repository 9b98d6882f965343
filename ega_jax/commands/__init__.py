"""The commands of `ega-jax`, a file each: `run(arguments)` carries one out and returns its exit code."""
