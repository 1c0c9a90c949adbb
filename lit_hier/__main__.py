"""`python -m lit_hier` is the command `lit-hier`."""

from lit_hier.cli import main

if __name__ == "__main__":
    main()
