"""Writes saxml/native.pyi and saxml/kernels.pyi, the types of the C++ modules.

./bazelw run //tools/stubs:gen_native_stubs
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pybind11_stubgen

MODULES = ("saxml.native", "saxml.kernels")

# The bindings convert more than callers should pass: a list, or an object with __int__. Types are
# checked against what is meant.
_NARROWER = [
    (
        r"typing\.Annotated\[numpy\.typing\.ArrayLike, numpy\.(\w+)\]",
        r"numpy.typing.NDArray[numpy.\1]",
    ),
    (r"typing\.SupportsInt \| typing\.SupportsIndex", "int"),
    (r"typing\.SupportsFloat \| typing\.SupportsIndex", "float"),
    # Enum members as a type checker knows them.
    (r"    (\w+): typing\.ClassVar\[DropReason\]", r"    \1 = ..."),
    (r"    @classmethod\n    def __new__\(cls, value\):\n        \.\.\.\n", ""),
]


def stub(module: str) -> pathlib.Path:
    """Where a module's stub lies in the tree."""
    return pathlib.Path(module.replace(".", "/") + ".pyi")


def generate(module: str) -> str:
    """Give the stub of one of MODULES, as it can be imported here."""
    with tempfile.TemporaryDirectory() as folder:
        pybind11_stubgen.main([module, "--output-dir", folder, "--exit-code"])
        text = (pathlib.Path(folder) / stub(module)).read_text()
    for pattern, replacement in _NARROWER:
        text = re.sub(pattern, replacement, text)
    common = ["--isolated", "--line-length=100", "--target-version=py311", "--stdin-filename=_.pyi"]
    text = _filter(["ruff", "check", "--fix", "--quiet", "--select=F401,I,RUF022", *common], text)
    return _filter(["ruff", "format", "--quiet", *common], text)


def _filter(module: list[str], text: str) -> str:
    command = [sys.executable, "-m", *module, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Write the stubs into the tree that this was started from."""
    tree = pathlib.Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    for module in MODULES:
        (tree / stub(module)).write_text(generate(module))
        print(f"wrote {tree / stub(module)}")


if __name__ == "__main__":
    main()
