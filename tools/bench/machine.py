"""What the machine does while a benchmark runs: read bandwidth, and CPU that other programs use."""

import contextlib
import pathlib
import subprocess
import sys

import psutil

_PROBE = "tools/bench/read_bandwidth"


class Watch:
    """How much of the machine programs use that are not of this process's tree."""

    def __init__(self) -> None:
        self._start = _now()

    def others(self) -> float:
        """Since the start, 0 to 1."""
        busy, own, whole = (b - a for a, b in zip(self._start, _now(), strict=True))
        return min(1.0, max(0.0, busy - own) / whole) if whole > 0 else 0.0


def _now() -> tuple[float, float, float]:
    """Seconds since some moment: (of all that ran, of this tree, of all cores)."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    this = psutil.Process()
    own = 0.0
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            # Those that ended and were waited for are in their parent's sums.
            own += sum(process.cpu_times()[:4])
    return sum(times) - idle, own, sum(times)


def read_bandwidth() -> float:
    """GB/s that all cores together read now, the median of a few passes over 256 MB.

    Raises FileNotFoundError when the probe is not built.
    """
    for folder in sys.path:
        probe = pathlib.Path(folder) / _PROBE
        if probe.is_file():
            done = subprocess.run([probe], check=True, capture_output=True, text=True)
            return float(done.stdout)
    raise FileNotFoundError("the probe is not built: bazel build //tools/bench:read_bandwidth")
