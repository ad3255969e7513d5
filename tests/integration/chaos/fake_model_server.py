"""A model server that needs no model: it adds. All else is that of the real one."""

import random
import signal
import sys
import threading
import time
from collections.abc import Mapping

from absl import app, flags

from saxml.common import errors, log
from saxml.common.clock import SystemClock
from saxml.common.names import CellId
from saxml.proto import admin_pb2, common_pb2, lm_pb2
from saxml.server.lifecycle import ModelTable
from saxml.server.servable import OnCancel
from saxml.server.serving import ModelServer
from saxml.storage.cell import CellStore
from tests.unit.server.fake_servable import FakeServable

_ROOT = flags.DEFINE_string("sax_root", None, "Root of the cells.", required=True)
MODEL_PATH = "p.Adder"
_DRAIN_S = 5.0


class _Adder(FakeServable):
    def generate(
        self, text: str, extra: common_pb2.ExtraInputs, deadline: float, on_cancel: OnCancel
    ) -> lm_pb2.GenerateResponse:
        with self.stats["lm.generate"].admit(self.key):
            time.sleep(random.uniform(0.0, 0.05))
            try:
                total = sum(int(n) for n in text.split("+"))
            except ValueError:
                raise errors.InvalidArgumentError(f"{text!r} is no sum") from None
            return lm_pb2.GenerateResponse(texts=[lm_pb2.DecodedText(text=str(total))])


def _build(key: str, path: str, checkpoint: str, overrides: Mapping[str, str]) -> _Adder:
    time.sleep(random.uniform(0.05, 0.3))
    return _Adder(key)


def main(argv: list[str]) -> None:
    log.setup()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    server = ModelServer(
        ModelTable(_build),
        port=0,
        cell=CellStore(_ROOT.value, CellId("test")),
        description=admin_pb2.ModelServer(
            chip_type=admin_pb2.ModelServer.CHIP_TYPE_CPU,
            chip_topology=admin_pb2.ModelServer.CHIP_TOPOLOGY_1,
            servable_model_paths=[MODEL_PATH],
        ),
        clock=SystemClock(),
    )
    server.start()
    print(f"Serving at {server.address}", file=sys.stderr, flush=True)
    ended.wait()
    server.drain(_DRAIN_S)
    server.stop()


if __name__ == "__main__":
    app.run(main)
