"""The one exception for invalid input, and what its message may suggest."""

from collections.abc import Iterable
from difflib import get_close_matches


def one_line(message: object) -> str:
    """Return a message as one printable line, whatever names it contains."""
    line = " ".join(str(message).split())
    return "".join(character if character.isprintable() else "?" for character in line)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the nearest known name as a question, as in ` (did you mean demo?)`.

    Args:
        name: What the user wrote.
        known: The names that exist.

    Returns:
        The question, after a space; empty if no known name is near.
    """
    others = {other.casefold(): other for other in known if other != name}
    close = get_close_matches(name.casefold(), others, n=1)
    return f" (did you mean {others[close[0]]}?)" if close else ""


class InputError(ValueError):
    """Invalid input.

    The message is one line that names the argument, the value, what is allowed and what to do; the
    command line prints it unchanged and exits with status 2.
    """
