"""`python -m consistency_lens`: the same as the command `consistency-lens` and as `run_lens.py`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
