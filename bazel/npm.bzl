"""npm_files: files of one npm package, as data; npm itself is optional.

  @NAME//:files   the files that match `patterns`; none where there is no npm on the PATH

The package is checked against its integrity string. None of its code is run.
"""

_VERIFY = """
import base64, hashlib, sys
wanted = sys.argv[2]
found = "sha512-" + base64.b64encode(hashlib.sha512(open(sys.argv[1], "rb").read()).digest()).decode()
sys.exit(None if found == wanted else "integrity is %s, wanted %s" % (found, wanted))
"""

def _run(ctx, args):
    r = ctx.execute(args, timeout = 600)
    if r.return_code:
        fail("%s failed (%d):\n%s%s" % (" ".join([str(a) for a in args]), r.return_code, r.stdout, r.stderr))
    return r.stdout.strip()

def _npm_files_impl(ctx):
    npm = ctx.which("npm")
    if npm:
        archive = _run(ctx, [npm, "pack", "--silent", ctx.attr.package + "@" + ctx.attr.version]).split("\n")[-1]
        _run(ctx, [ctx.attr.python, "-c", _VERIFY, archive, ctx.attr.integrity])
        _run(ctx, ["tar", "xzf", archive])
        ctx.delete(archive)
    ctx.file("BUILD", """
filegroup(
    name = "files",
    srcs = glob(%r, allow_empty = True),
    visibility = ["//visibility:public"],
)
""" % ["package/" + p for p in ctx.attr.patterns])

npm_files = repository_rule(
    implementation = _npm_files_impl,
    attrs = {
        "package": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
        "integrity": attr.string(mandatory = True, doc = "as npm view PACKAGE dist.integrity says"),
        "patterns": attr.string_list(mandatory = True),
        "python": attr.string(default = "python3"),
    },
    environ = ["PATH"],
)
