"""Models in from Hugging Face and out to it: whole directories, where `ega_jax.models.weights` knows tensors alone."""
