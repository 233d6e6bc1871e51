"""`python -m mmssl ...`, and so `accelerate launch -m mmssl ...`, is the command `mmssl`."""

import os
import sys

# `python -m` puts the working directory in front of everything that is installed: a soundfile.py there would be taken
# for the package as soon as a sound is read. Who wants it to be searched says so with PYTHONPATH.
if sys.path and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from .cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
