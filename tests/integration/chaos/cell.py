"""Three admin servers and three model servers as real processes, and what can happen to them."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from saxml.proto import common_pb2, modelet_pb2, modelet_pb2_grpc
from tests.integration.processes import Process

ADMINS = SERVERS = 3
ADMIN_WAYS = ("kill", "term", "freeze", "kill standby", "freeze standby")
_SERVING = health_pb2.HealthCheckResponse.SERVING


class Member:
    """A process that is started anew after its death; `stopped` while SIGSTOP holds it."""

    def __init__(self, module: str, ready: str, *flags: str) -> None:
        self._module, self._ready, self._flags = module, ready, flags
        self.stopped = False
        self.restart()

    def restart(self) -> None:
        """A new process, ready to be asked."""
        self.process = Process(self._module, *self._flags)
        port = self.process.wait_for(self._ready, 60.0)[1].rpartition(":")[2]
        self.address = f"127.0.0.1:{port}"
        self.stopped = False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        self.stopped = True
        self.process.pause()
        try:
            yield
        finally:
            self.process.resume()
            self.stopped = False


class Admin(Member):
    def __init__(self, root: str, module: str, *flags: str) -> None:
        super().__init__(
            module,
            r"Starting the server on port (\d+)",
            "--sax_cell=/sax/test",
            f"--sax_root={root}",
            "--port=0",
            "--http_port=0",
            *flags,
        )

    def leads(self) -> bool:
        """Whether it says so itself, now."""
        if self.stopped:
            return False
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(service="sax.Admin"), timeout=1)
            except grpc.RpcError:
                return False
            return bool(answer.status == _SERVING)


class Server(Member):
    def __init__(self, root: str) -> None:
        super().__init__(
            "tests.integration.chaos.fake_model_server", r"Serving at (\S+)", f"--sax_root={root}"
        )

    def holds(self, models: list[str]) -> bool:
        """Whether it serves all of them, now."""
        if self.stopped:
            return False
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = modelet_pb2_grpc.ModeletStub(channel)
            try:
                answer = stub.GetStatus(modelet_pb2.GetStatusRequest(), timeout=1)
            except grpc.RpcError:
                return False
        loaded = {m.model_key for m in answer.models if m.model_status == common_pb2.LOADED}
        return loaded >= set(models)


class Cell:
    """The processes, and the two hands that disturb them, each with its own dice."""

    def __init__(
        self,
        root: str,
        models: list[str],
        seed: int,
        *,
        admins: int = ADMINS,
        servers: int = SERVERS,
        module: str = "saxml.admin.admin_server",
        flags: tuple[str, ...] = (),
    ) -> None:
        """module, flags: of the admin servers."""
        self.admins = [Admin(root, module, *flags) for _ in range(admins)]
        self.servers = [Server(root) for _ in range(servers)]
        self._models, self._seed = models, seed
        # (what was done to the leader, seconds until another one led).
        self.take_overs: list[tuple[str, float]] = []
        self.events: list[str] = []

    def close(self) -> None:
        for member in (*self.admins, *self.servers):
            member.process.kill()

    def leader(self, timeout_s: float = 60.0) -> Admin:
        """The one that leads; there must be one in time."""
        end = time.monotonic() + timeout_s
        while True:
            for admin in self.admins:
                if admin.leads():
                    return admin
            assert time.monotonic() < end, f"nobody has led for {timeout_s} s"
            time.sleep(0.02)

    def disturb_admins(
        self, end: float, over: threading.Event, ways: tuple[str, ...] = ADMIN_WAYS
    ) -> None:
        """Until `end`, on time.monotonic's clock; each way at least once before any comes again."""
        rng = random.Random(f"{self._seed} admins")
        for what in _endless(rng, [*ways]):
            if over.wait(rng.uniform(0.5, 2.0)) or time.monotonic() > end:
                return
            self.events.append(f"{what} admin")
            leader = self.leader()
            standbys = [a for a in self.admins if a is not leader]
            match what:
                case "kill":
                    start = time.monotonic()
                    leader.process.kill()
                    self._note(what, start, standbys)
                    leader.restart()
                case "term":
                    start = time.monotonic()
                    leader.process.terminate()
                    self._note(what, start, standbys)
                    assert leader.process.wait() == 0
                    leader.restart()
                case "freeze":
                    with leader.frozen():
                        self._note(what, time.monotonic(), standbys)
                        over.wait(rng.uniform(0.0, 3.0))
                case "kill standby":
                    standby = rng.choice(standbys)
                    standby.process.kill()
                    over.wait(rng.uniform(0.0, 2.0))
                    standby.restart()
                case _:
                    with rng.choice(standbys).frozen():
                        over.wait(rng.uniform(1.0, 4.0))

    def disturb_servers(self, end: float, over: threading.Event) -> None:
        """As above; never before the two others hold all models, so that there is a replica."""
        rng = random.Random(f"{self._seed} servers")
        for what in _endless(rng, ["kill", "freeze", "term"]):
            if over.wait(rng.uniform(0.5, 2.0)) or time.monotonic() > end:
                return
            while not (victims := self._dispensable()):
                if over.wait(0.2) or time.monotonic() > end:
                    return
            victim = rng.choice(victims)
            self.events.append(f"{what} server")
            match what:
                case "freeze":
                    with victim.frozen():
                        over.wait(rng.uniform(1.0, 12.0))
                case _:
                    if what == "kill":
                        victim.process.kill()
                    else:
                        victim.process.terminate()
                        assert victim.process.wait() == 0
                    over.wait(rng.uniform(0.0, 3.0))
                    victim.restart()

    def _dispensable(self) -> list[Server]:
        """Those without whom two are left that hold all models."""
        holding = [s for s in self.servers if s.holds(self._models)]
        return [s for s in self.servers if len([h for h in holding if h is not s]) >= 2]

    def _note(self, what: str, start: float, standbys: list[Admin]) -> None:
        while not any(s.leads() for s in standbys):
            assert time.monotonic() < start + 60, f"nobody took over in 60 s after a {what}"
            time.sleep(0.02)
        self.take_overs.append((what, time.monotonic() - start))


def _endless(rng: random.Random, ways: list[str]) -> Iterator[str]:
    while True:
        rng.shuffle(ways)
        yield from ways
