"""Kernels that are compiled once for each level of CPU."""

load("//bazel:defs.bzl", "sax_cc_library")

_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mprefer-vector-width=512"]

# See native/kernels/level.h.
_LEVELS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": _AVX512,
    "avx512_bf16": _AVX512 + ["-mavx512bf16", "-mavx512vnni"],
}

# GCC's own vectorising makes scattered stores of transpositions, and its notes on how vectors are passed concern calls
# that are all inlined.
_COPTS = ["-O3", "-fno-tree-vectorize", "-ffp-contract=fast", "-Wno-psabi"]

def leveled_cc_library(name, srcs, deps = [], **kwargs):
    """A library with `srcs` compiled for each level, with -DSAX_LEVEL=LEVEL; see native/kernels/simd.h."""
    for level, flags in _LEVELS.items():
        sax_cc_library(
            name = "%s_%s" % (name, level),
            srcs = srcs,
            copts = _COPTS + ["-DSAX_LEVEL=" + level] + select({
                "@platforms//cpu:x86_64": flags,
                "//conditions:default": [],
            }),
            visibility = ["//visibility:private"],
            deps = deps,
        )
    sax_cc_library(
        name = name,
        deps = [":%s_%s" % (name, level) for level in _LEVELS],
        **kwargs
    )
