"""`python -m fetchmld` is the `fetchmld` command."""

from fetchmld.cli import main

if __name__ == "__main__":
    main()
