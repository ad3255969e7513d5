"""How much memory a conversion takes, in a process of its own."""

import os
import subprocess
import sys

_MEASURE = """
import importlib, pathlib, sys, threading
from saxml.common import malloc

def resident():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024

module, name, base, pax = sys.argv[1:]
convert = getattr(importlib.import_module(module), name)
malloc.return_freed_memory()
before, peak, done = resident(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, resident())

watcher = threading.Thread(target=watch)
watcher.start()
convert(base, pax)
done.set()
watcher.join()
print(peak - before)
"""


def growth(module: str, name: str, base: str, pax: str) -> int:
    """Bytes by which memory grows at most during module.name(base, pax)."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, module, name, base, pax],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
