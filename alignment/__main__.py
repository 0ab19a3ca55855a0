"""``python -m alignment VERB ...`` is ``alignment VERB ...``."""

from alignment.commands.main import main

if __name__ == "__main__":
    main()
