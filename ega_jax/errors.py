"""The errors that a user can mend."""


class BadInputError(ValueError):
    """Something that the user gave is wrong: a file, a row, a setting, a checkpoint.

    The message names it and says what to do. The command line prints the message alone, without a traceback, and exits
    with code 2.
    """
