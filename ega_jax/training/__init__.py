"""The sharded training step and the loop around it."""
