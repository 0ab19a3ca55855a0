"""``python -m alignment.doctor`` is ``alignment doctor``."""

import sys

from alignment.commands.main import main

if __name__ == "__main__":
    main(["doctor", *sys.argv[1:]])
