"""`python -m lit_hier` is the command `lit-hier`."""

from lit_hier.cli import run

if __name__ == "__main__":
    run()
