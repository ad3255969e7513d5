"""Style and types of the whole tree: ruff, mypy --strict, clang-format, buildifier."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

RUNFILES = pathlib.Path.cwd()
TREE = (RUNFILES / "pyproject.toml").resolve().parent
BIN = pathlib.Path(sys.executable).parent


def sources(*suffixes: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=TREE,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    found = [f for f in listed if f.endswith(suffixes) and (TREE / f).exists()]
    assert found, f"no {suffixes} under {TREE}"
    return found


def run(*command: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=TREE,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(command[:4])} ...\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    run(str(BIN / "ruff"), "check", "--quiet", ".")


def test_python_is_formatted() -> None:
    run(str(BIN / "ruff"), "format", "--check", "--quiet", ".")


def test_mypy_strict_finds_nothing() -> None:
    checked = [f for f in sources(".py") if f.startswith(("sax/", "saxml/", "tools/", "tests/"))]
    env = {"MYPYPATH": f"{TREE}:{RUNFILES}"}
    run(sys.executable, "-m", "mypy", "--cache-dir", str(TREE / ".mypy_cache"), *checked, env=env)


def test_cpp_is_formatted() -> None:
    run(str(BIN / "clang-format"), "--dry-run", "-Werror", *sources(".cc", ".h"))


def test_build_files_are_formatted() -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    found = sorted(pathlib.Path("..").glob(f"*buildifier*/package/buildifier-linux_{machine}"))
    if not found:
        pytest.skip("there is no npm here, which would bring buildifier")
    names = ("BUILD", ".BUILD", "WORKSPACE", "MODULE.bazel", ".bzl")
    run(str(found[0].absolute()), "-mode=check", *sources(*names))
