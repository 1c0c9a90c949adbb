"""The error that means: the input is wrong, and this line says how to mend it."""


def one_line(message: object) -> str:
    """Give a message as one line of letters that can be printed, whatever names it holds."""
    line = " ".join(str(message).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line that names the argument, the value, what is allowed and what to do;
    the command line prints it as it stands and exits with a non-zero status.
    """
