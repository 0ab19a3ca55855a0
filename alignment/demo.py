"""``python -m alignment.demo`` is ``alignment demo``."""

import sys

from alignment.commands.main import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
