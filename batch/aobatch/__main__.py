"""`python -m aobatch`."""

from aobatch.cli.main import main

if __name__ == "__main__":
    main()
