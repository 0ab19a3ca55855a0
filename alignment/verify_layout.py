"""``python -m alignment.verify_layout`` is ``alignment verify``."""

import sys

from alignment.commands.main import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]])
