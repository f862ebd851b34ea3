"""`python -m coordinator.cli`."""

from coordinator.cli.app import main

if __name__ == "__main__":
    main()
