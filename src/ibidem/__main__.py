"""`python -m ibidem`."""

import sys

from ibidem.cli import main

if __name__ == "__main__":
    sys.exit(main())
