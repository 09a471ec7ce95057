"""`python -m dem`: the same as the command `dem`."""

from dem.cli import main

if __name__ == "__main__":
    main()
