"""Looking at data before it is trained on: what is wrong with it, how large its rows are, what they look like."""
