"""``python -m layercache``: the same command line."""

from layercache.cli.main import main

if __name__ == "__main__":
    main()
