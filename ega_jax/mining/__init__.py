"""Hard negatives for a training set, from the vectors that a model gives its rows."""
