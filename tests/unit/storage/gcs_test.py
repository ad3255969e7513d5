"""What the bucket store makes of a server that misbehaves: a fake with injected faults."""

import http.server
import threading
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from saxml.common.errors import (
    FailedPreconditionError,
    PermissionDeniedError,
    UnavailableError,
)
from saxml.storage.base import ConflictError, Stored
from saxml.storage.gcs import GcsStore


class FakeBucket:
    """One object; `faults` are taken one a request: a status, or "lost" for a reply that is."""

    def __init__(self) -> None:
        self.generation = 0
        self.data = b""
        self.faults: list[int | str] = []
        self.requests = 0
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        if method == "GET" and "/o/" not in path:
            return 200, b"{}"
        if method == "GET" and self.generation and "/download/" not in path:
            return 200, f'{{"name": "a", "generation": "{self.generation}"}}'.encode()
        if method == "GET":
            return (200, self.data) if self.generation else (404, b"{}")
        expected = query.get("ifGenerationMatch")
        if expected and int(expected[0]) != self.generation:
            return 412, b'{"error": {"message": "conditionNotMet"}}'
        # multipart/related: the second part is the data.
        boundary = body.split(b"\r\n", 1)[0]
        self.data = body.split(boundary)[2].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        self.generation += 1
        return 200, f'{{"name": "a", "generation": "{self.generation}"}}'.encode()


def _handler(bucket: FakeBucket) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            # The client asks for the bucket itself as well, from a thread, for its traces.
            about_objects = "/o" in self.path
            bucket.requests += about_objects
            fault = bucket.faults.pop(0) if bucket.faults and about_objects else None
            if isinstance(fault, int):
                code, data = fault, b'{"error": {"message": "injected"}}'
            else:
                code, data = bucket.handle(self.command, self.path, body)
            if fault == "lost":
                self.close_connection = True
                return
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Goog-Generation", str(bucket.generation))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBucket]:
    bucket = FakeBucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
    yield bucket
    bucket.server.shutdown()
    bucket.server.server_close()


def test_passing_faults_are_retried(bucket: FakeBucket) -> None:
    store = GcsStore("cells", "root")
    bucket.faults = [503, 429, "lost"]
    assert store.read("a") is None
    bucket.faults = [500, 502]
    assert store.write("a", b"x", if_generation=0) == 1
    bucket.faults = [503]
    assert store.read("a") == Stored(b"x", 1)


def test_a_write_whose_reply_was_lost_counts_once(bucket: FakeBucket) -> None:
    store = GcsStore("cells")
    bucket.faults = ["lost"]
    assert store.write("a", b"mine", if_generation=0) == 1
    assert (bucket.data, bucket.generation) == (b"mine", 1)


def test_a_lost_reply_does_not_hide_another_writer(bucket: FakeBucket) -> None:
    store = GcsStore("cells")
    store.write("a", b"theirs", if_generation=0)
    bucket.faults = [503]
    with pytest.raises(ConflictError, match="/gcs/cells/a is not at generation 0"):
        store.write("a", b"mine", if_generation=0)


def test_a_bucket_that_stays_away_is_given_up_in_time(bucket: FakeBucket) -> None:
    store = GcsStore("cells", "root", total_timeout_s=0.5)
    bucket.faults = [503] * 100
    with pytest.raises(UnavailableError, match="cannot write gs://cells/root/a: 503"):
        store.write("a", b"x")
    assert 2 <= bucket.requests < 10


def test_a_watch_survives_passing_faults_and_asks_ever_more_seldom(bucket: FakeBucket) -> None:
    store = GcsStore("cells", "root")
    first = store.write("a", b"x")
    bucket.faults, bucket.requests = [503], 0
    assert store.watch("a", 0, 60.0) == first
    assert bucket.requests == 2
    bucket.requests = 0
    assert store.watch("a", first, 2.0) == first
    # After 0.5, 0.65, 0.85 s, and at the end; a fifth more or less.
    assert 3 <= bucket.requests <= 6


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        (lambda s: s.read("a"), "read"),
        (lambda s: s.write("a", b""), "write"),
        (lambda s: s.watch("a", 0, 1.0), "watch"),
    ],
)
def test_a_refusal_is_final(
    bucket: FakeBucket, operation: Callable[[GcsStore], object], what: str
) -> None:
    bucket.faults = [403]
    with pytest.raises(PermissionDeniedError, match=f"cannot {what} gs://cells/a: .*injected"):
        operation(GcsStore("cells"))
    assert bucket.requests == 1


def test_a_missing_bucket_is_told_from_a_missing_object(bucket: FakeBucket) -> None:
    bucket.faults = [404, 404]
    with pytest.raises(FailedPreconditionError, match="there is no bucket gs://cells; create it"):
        GcsStore("cells").read("a")
    bucket.faults = [404]
    with pytest.raises(FailedPreconditionError, match="there is no such bucket"):
        GcsStore("cells").write("a", b"")


def test_missing_credentials_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth

    def none(*args: object, **kwargs: object) -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none here")  # type: ignore[no-untyped-call]

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(FailedPreconditionError, match="gcloud auth application-default login"):
        GcsStore("cells").read("a")
