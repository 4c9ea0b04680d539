"""`python -m nextbert_lite` is the command `nextbert-lite`."""

import sys

from nextbert_lite.course.cli import main

if __name__ == "__main__":
    sys.exit(main())
