"""Python packages from a locked, hashed requirements file.

pip_repository makes a virtual environment and registers it as the Python toolchain:

  @pip//NAME               empty py_library per distribution; it only declares the dependency, since the
                           toolchain's interpreter already has the files
  @pip//:requirements.bzl  requirement("NAME")
  @pip//:python_headers, @pip//:pybind11_headers, @pip//:xla_ffi_headers   cc_library
  @pip//:toolchain         the Python toolchain

pip_files unpacks the distributions of a lock and gives the files that match some patterns as @NAME//:files. It is for
data that lies inside a package, without its code or its dependencies.
"""

def _run(ctx, args, **kw):
    r = ctx.execute(args, timeout = 3000, **kw)
    if r.return_code:
        fail("%s failed (%d):\n%s%s" % (" ".join([str(a) for a in args]), r.return_code, r.stdout, r.stderr))
    return r.stdout.strip()

_PIP_ENV = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1", "PIP_CONSTRAINT": ""}

_PROBE = """
import importlib.metadata as m, os, re, sys, sysconfig
import pybind11
import jaxlib
print(sysconfig.get_paths()["include"])
print(pybind11.get_include())
print(os.path.join(os.path.dirname(jaxlib.__file__), "include"))
print(" ".join(sorted({re.sub(r"[-_.]+", "_", d.metadata["Name"]).lower() for d in m.distributions()})))
"""

_BUILD = """
load("@rules_cc//cc:defs.bzl", "cc_library")
load("@rules_python//python:defs.bzl", "py_runtime", "py_runtime_pair")
package(default_visibility = ["//visibility:public"])
exports_files(["requirements.bzl"])
cc_library(name = "python_headers", hdrs = glob(["python_include/**/*.h"]), includes = ["python_include"])
cc_library(name = "pybind11_headers", hdrs = glob(["pybind11_include/**/*.h"]), includes = ["pybind11_include"], deps = [":python_headers"])
cc_library(name = "xla_ffi_headers", hdrs = glob(["jaxlib_include/xla/ffi/api/*.h"]), includes = ["jaxlib_include"])
py_runtime(name = "runtime", interpreter_path = "{python}", python_version = "PY3", stub_shebang = "#!{python}")
py_runtime_pair(name = "runtime_pair", py3_runtime = ":runtime")
toolchain(name = "toolchain", toolchain = ":runtime_pair", toolchain_type = "@bazel_tools//tools/python:toolchain_type")
"""

_DIST = """
load("@rules_python//python:defs.bzl", "py_library")
py_library(name = "{dist}", visibility = ["//visibility:public"])
"""

_BZL = """
PYTHON = "{python}"

def requirement(name):
    return str(Label("//" + name.lower().replace("-", "_").replace(".", "_")))
"""

def _base_python(ctx):
    base = ctx.os.environ.get("PIP_REPOSITORY_PYTHON", ctx.attr.python)
    return _run(ctx, [base, "-c", "import sys; print(sys._base_executable or sys.executable)"])

def _pip_repository_impl(ctx):
    lock = ctx.path(ctx.attr.requirements_lock)
    base = _base_python(ctx)

    # The digest is in the interpreter's path, so that a changed lock changes the key of each Python action and test.
    key = _run(ctx, [base, "-c", "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read() + sys.version.encode()).hexdigest()[:12])", lock])
    venv = str(ctx.path("venv-" + key))
    python = venv + "/bin/python3"
    _run(ctx, [base, "-m", "venv", venv])
    ctx.report_progress("installing " + lock.basename)
    _run(ctx, [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "--no-deps", "-r", lock], environment = _PIP_ENV)
    include, pybind11, jaxlib, dists = _run(ctx, [python, "-I", "-c", _PROBE]).split("\n")
    ctx.symlink(include, "python_include")
    ctx.symlink(pybind11, "pybind11_include")
    ctx.symlink(jaxlib, "jaxlib_include")
    ctx.file("BUILD", _BUILD.format(python = python))
    for dist in dists.split(" "):
        ctx.file(dist + "/BUILD", _DIST.format(dist = dist))
    ctx.file("requirements.bzl", _BZL.format(python = python))

_COMMON = {
    "requirements_lock": attr.label(mandatory = True, allow_single_file = True),
    "python": attr.string(default = "python3"),
}

pip_repository = repository_rule(
    implementation = _pip_repository_impl,
    attrs = _COMMON,
    environ = ["PIP_REPOSITORY_PYTHON"],
)

_FILES_BUILD = """
filegroup(name = "files", srcs = glob({patterns}), visibility = ["//visibility:public"])
"""

def _pip_files_impl(ctx):
    lock = ctx.path(ctx.attr.requirements_lock)
    venv = str(ctx.path("venv"))
    _run(ctx, [_base_python(ctx), "-m", "venv", venv])
    ctx.report_progress("unpacking " + lock.basename)
    _run(ctx, [venv + "/bin/python3", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--no-compile", "--target", ctx.path("unpacked"), "-r", lock], environment = _PIP_ENV)
    ctx.delete(ctx.path("venv"))
    ctx.file("BUILD", _FILES_BUILD.format(patterns = repr(["unpacked/" + p for p in ctx.attr.patterns])))

pip_files = repository_rule(
    implementation = _pip_files_impl,
    attrs = dict(_COMMON, patterns = attr.string_list(mandatory = True)),
    environ = ["PIP_REPOSITORY_PYTHON"],
)
