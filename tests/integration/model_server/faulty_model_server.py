"""The model server, whose steps go wrong as a file tells; for tests, with its own main.

FAULT_FILE names the file, which may not be there. "break": the next step of a model without
beams raises. "hang": steps wait until the file says something else. A step may take LIMIT_S
seconds before it counts as standing still.
"""

import os
import pathlib
import time
from typing import Any

import jax
from absl import app

from saxml.engine import device, heartbeat
from saxml.server import model_server

FAULT_FILE = "SAX_TEST_FAULT_FILE"
LIMIT_S = 1.5


def _fault() -> str:
    path = pathlib.Path(os.environ[FAULT_FILE])
    return path.read_text() if path.exists() else ""


def _faulty(run: Any) -> Any:
    def run_or_fail(self: device.Device, *arguments: Any) -> Any:
        while _fault() == "hang":
            time.sleep(0.02)
        if self._options.num_candidates == 0 and _fault() == "break":
            raise RuntimeError("the device is lost")
        return run(self, *arguments)

    return run_or_fail


if __name__ == "__main__":
    heartbeat.LEAST_LIMIT_S = LIMIT_S
    heartbeat.SLOWEST_FACTOR = 1.0  # a slow machine shall not raise the limit
    setattr(device.Device, "run", _faulty(device.Device.run))  # noqa: B010
    jax.config.config_with_absl()
    app.run(model_server.main)
