"""What a training step will cost on hardware that is not there: compiled by the real compiler, read from its output."""
