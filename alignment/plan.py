"""``python -m alignment.plan`` is ``alignment plan``."""

import sys

from alignment.commands.main import main

if __name__ == "__main__":
    main(["plan", *sys.argv[1:]])
