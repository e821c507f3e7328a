"""`python -m doorward` is `doorward`."""

import sys

from doorward.cli import main

if __name__ == "__main__":
    sys.exit(main())
