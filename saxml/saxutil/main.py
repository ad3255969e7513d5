"""saxutil: manage a SAX cell and use its models from the command line."""

import os
import sys

from saxml.saxutil.program import main

if __name__ == "__main__":
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    sys.exit(main(sys.argv[1:]))
