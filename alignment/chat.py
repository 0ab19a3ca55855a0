"""``python -m alignment.chat`` is ``alignment chat``."""

import sys

from alignment.commands.main import main

if __name__ == "__main__":
    main(["chat", *sys.argv[1:]])
