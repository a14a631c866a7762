"""``python -m ntkdist``: the command line."""

from ntkdist.cli import main

if __name__ == "__main__":
    main()
