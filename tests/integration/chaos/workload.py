"""What goes on in the cell meanwhile: clients that ask, and a publisher that publishes."""

import random
import threading
import time
from dataclasses import dataclass, field

import saxml.client.sax as sax
from saxml.common.errors import SaxError
from tests.integration.chaos.fake_model_server import MODEL_PATH

DEADLINE_S = 30.0
_PUBLISHED_AT_MOST = 8


@dataclass
class Tally:
    """What became of the requests; one lock for all."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    # Models whose publication was acknowledged and that nobody has tried to take away.
    acknowledged: set[str] = field(default_factory=set)
    publishes: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Workload:
    """Threads that run until stop()."""

    def __init__(self, root: str, models: list[str], clients: int, seed: int) -> None:
        self._root, self._models, self._seed = root, models, seed
        self._stop = threading.Event()
        self._opened = {m: sax.Model(m, sax.Options(sax_root=root)) for m in models}
        self.tally = Tally()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]
        self._threads.append(threading.Thread(target=self._publish))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when every request has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for model in self._opened.values():
            model.Close()

    def _ask(self, number: int) -> None:
        rng = random.Random(f"{self._seed} client {number}")
        options = sax.ModelOptions()
        options.SetTimeout(DEADLINE_S)
        while not self._stop.is_set():
            name = rng.choice(self._models)
            a, b = rng.randrange(1000), rng.randrange(1000)
            start = time.monotonic()
            try:
                text = self._opened[name].LM().Generate(f"{a}+{b}", options)[0][0]
                problem = "" if text == str(a + b) else f"{a}+{b} = {text}"
            except SaxError as error:
                problem = f"{error.code.name}: {error}"
            seconds = time.monotonic() - start
            with self.tally.lock:
                self.tally.seconds.append(seconds)
                if problem:
                    self.tally.wrong.append(f"{name} after {seconds:.1f} s: {problem}")
            self._stop.wait(rng.uniform(0.05, 0.25))

    def _publish(self) -> None:
        rng = random.Random(f"{self._seed} publisher")
        options = sax.AdminOptions(timeout=DEADLINE_S, sax_root=self._root)
        number = 0
        with sax.Admin("/sax/test", options) as admin:
            while not self._stop.wait(rng.uniform(0.3, 1.5)):
                number += 1
                name = f"/sax/test/published{number}"
                start = time.monotonic()
                try:
                    admin.Publish(name, MODEL_PATH, "None", 1, {"ram": "1"})
                except SaxError as error:
                    # It may be there or not: nothing was promised.
                    self.tally.refused.append(f"{error.code.name}: {error}")
                    continue
                self.tally.publishes.append(time.monotonic() - start)
                self.tally.acknowledged.add(name)
                if len(self.tally.acknowledged) > _PUBLISHED_AT_MOST:
                    gone = rng.choice(sorted(self.tally.acknowledged))
                    self.tally.acknowledged.discard(gone)
                    try:
                        admin.Unpublish(gone)
                    except SaxError as error:
                        self.tally.refused.append(f"{error.code.name}: {error}")
