"""The errors that a user can mend."""


class BadInputError(ValueError):
    """Something that the user gave is wrong: a file, a row, a setting, a checkpoint.

    The message names it and says what to do. The command line prints the message alone, without a traceback, and exits
    with code 2.
    """


class NonFiniteEmbeddingError(ValueError):
    """The model embedded an item as NaN or infinity; the message names the item.

    Not a `BadInputError`: the item is seldom to blame, diverged weights or an overflowing dtype mostly are. The command
    line exits with code 1.
    """
