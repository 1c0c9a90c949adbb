"""The error that means: the input is wrong, and this line says how to mend it."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line that names the argument, the value, what is allowed and what to do;
    the command line prints it as it stands and exits with a non-zero status.
    """
