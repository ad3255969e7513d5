"""Entry point of pytest_test targets: maps Bazel's test environment to pytest's options."""

import os
import sys

import pytest

if __name__ == "__main__":
    args = ["-p", "no:cacheprovider", "-rA", "--color=no", "--capture=sys", "-c", os.devnull]
    args.append("--rootdir=" + os.getcwd())
    if xml := os.environ.get("XML_OUTPUT_FILE"):
        args.append("--junitxml=" + xml)
    if only := os.environ.get("TESTBRIDGE_TEST_ONLY"):
        args += ["-k", only]
    sys.exit(pytest.main(args + sys.argv[1:]))
