"""Build macros: C++ with our warnings, pybind11 modules, pytest targets, Python code from protos."""

load("@pip//:requirements.bzl", "requirement")
load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")
load("@rules_python//python:defs.bzl", "py_library", "py_test")

_COPTS = ["-Wall", "-Wextra", "-Werror"]

def sax_cc_library(name, copts = [], **kwargs):
    """cc_library with the project's warnings as errors."""
    cc_library(name = name, copts = _COPTS + copts, **kwargs)

def sax_cc_test(name, deps = [], copts = [], **kwargs):
    """A GoogleTest test with the project's warnings as errors."""
    cc_test(name = name, copts = _COPTS + copts, deps = deps + ["@com_google_googletest//:gtest_main"], **kwargs)

def pybind_extension(name, srcs, deps = [], copts = [], data = [], **kwargs):
    """C++ extension module NAME.so; depend on :NAME to import it as <package>.NAME."""
    cc_binary(
        name = name + ".so",
        srcs = srcs,
        copts = _COPTS + ["-fvisibility=hidden", "-fexceptions"] + copts,
        linkshared = True,
        deps = deps + ["@pip//:pybind11_headers"],
    )
    py_library(name = name, data = [":" + name + ".so"] + data, **kwargs)

def pytest_test(name, srcs, deps = [], args = [], data = [], tags = [], **kwargs):
    """Runs the srcs with pytest; --test_filter, XML results and --test_arg work. No test collected is a failure."""
    py_test(
        name = name,
        srcs = srcs + ["//bazel:pytest_main.py"],
        main = "//bazel:pytest_main.py",
        args = ["$(rootpath %s)" % s for s in srcs] + args,
        data = srcs + data,
        deps = deps + [requirement("pytest")],
        tags = tags + ["python"],
        **kwargs
    )

_ProtoSources = provider(fields = ["files"])

def _py_proto_impl(ctx):
    transitive = depset(ctx.files.srcs, transitive = [d[_ProtoSources].files for d in ctx.attr.deps])
    py, pyi = [], []
    for src in ctx.files.srcs:
        stem = src.basename[:-len(".proto")]
        src_py = [ctx.actions.declare_file(stem + s) for s in ["_pb2.py", "_pb2_grpc.py"]]
        src_pyi = ctx.actions.declare_file(stem + "_pb2.pyi")
        out = ctx.bin_dir.path
        ctx.actions.run(
            executable = ctx.executable._protoc,
            # The sources lie in proto/, the Python package is this one: protoc maps one on the other.
            arguments = ["-I%s=%s" % (ctx.label.package, src.dirname)] +
                        ["--%s_out=%s" % (k, out) for k in ["python", "grpc_python", "pyi"]] +
                        [ctx.label.package + "/" + src.basename],
            inputs = transitive,
            outputs = src_py + [src_pyi],
            mnemonic = "PyProto",
            progress_message = "Generating Python for %s" % src.short_path,
        )
        py += src_py
        pyi.append(src_pyi)
    return [DefaultInfo(files = depset(py)), OutputGroupInfo(pyi = depset(pyi)), _ProtoSources(files = transitive)]

_py_proto = rule(
    implementation = _py_proto_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".proto"]),
        "deps": attr.label_list(providers = [_ProtoSources]),
        "_protoc": attr.label(default = "//bazel:protoc", executable = True, cfg = "exec"),
    },
)

def py_grpc_proto_library(name, srcs, **kwargs):
    """*_pb2.py, *_pb2_grpc.py and *_pb2.pyi in this package, from protos that lie elsewhere.

    Protos import one another by the path of the Python package they become
    (import "saxml/proto/common.proto"), wherever the .proto files lie.
    """
    _py_proto(name = name + "_gen", srcs = srcs, visibility = ["//visibility:private"])
    native.filegroup(name = name + "_pyi", srcs = [":" + name + "_gen"], output_group = "pyi", **kwargs)
    py_library(name = name, srcs = [":" + name + "_gen"], data = [":" + name + "_pyi"], deps = [requirement("grpcio"), requirement("protobuf")], **kwargs)
