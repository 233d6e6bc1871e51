"""`python -m mmssl ...`, and so `accelerate launch -m mmssl ...`, is the command `mmssl`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
