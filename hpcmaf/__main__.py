"""``python -m hpcmaf``."""

from hpcmaf.cli import main

if __name__ == "__main__":
    main()
