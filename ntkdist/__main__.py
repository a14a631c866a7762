"""``python -m ntkdist``: the command line."""

from ntkdist.cli.main import main

if __name__ == "__main__":
    main()
