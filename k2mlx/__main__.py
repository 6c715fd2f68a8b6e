"""`python -m k2mlx`, the same as the command `k2mlx`; what mlx.launch starts on every machine."""

import sys

from k2mlx.cli import main

if __name__ == "__main__":
    sys.exit(main())
