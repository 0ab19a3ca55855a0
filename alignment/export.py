"""``python -m alignment.export`` is ``alignment export``."""

import sys

from alignment.commands.main import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
