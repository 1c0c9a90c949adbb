"""The one exception for invalid input."""


def one_line(message: object) -> str:
    """Return a message as one printable line, whatever names it contains."""
    line = " ".join(str(message).split())
    return "".join(character if character.isprintable() else "?" for character in line)


class InputError(ValueError):
    """Invalid input.

    The message is one line that names the argument, the value, what is allowed and what to do; the
    command line prints it unchanged and exits with status 2.
    """
