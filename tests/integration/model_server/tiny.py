"""Two small models from a converted checkpoint, and how to call a server that serves them."""

import pathlib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from prometheus_client.parser import text_string_to_metric_families

from saxml.proto import common_pb2, lm_pb2, lm_pb2_grpc
from tools.convert.llama import convert_llama

PATH = "saxml.server.pax.lm.params.auto.AutoLM"
SAMPLES = "/sax/test/samples"  # two samples; with temperature 0 both are greedy
BEAMS = "/sax/test/beams"
VOCAB = 224
LONGEST_PROMPT = 48
STEPS = 24
STOP = 7
_COMMON: Mapping[str, Any] = {
    "TOKENIZED_INPUT": True,
    "TOKENIZED_OUTPUT": True,
    "INPUT_SEQ_LEN": LONGEST_PROMPT,
    "MAX_DECODE_STEPS": STEPS,
    "BATCH_SIZE": 4,
    "MAX_LIVE_BATCHES": 8,
    "STOP_TOKEN_IDS": [STOP],
    "PAGE_SIZE": 8,
    "EXTRA_INPUTS": {"temperature": 0.0, "per_example_max_decode_steps": STEPS, "seed": 0},
}
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    SAMPLES: {**_COMMON, "NUM_SAMPLES": 2},
    BEAMS: {**_COMMON, "USE_BEAM_SEARCH": True, "BEAM_SIZE": 3, "TOKENS_PER_BEAM": 3},
}


def checkpoint(folder: pathlib.Path) -> str:
    """The tiny Llama in Pax layout."""
    return convert_llama("tests/golden/tiny_llama", str(folder))


def text(ids: Sequence[int]) -> str:
    """A prompt."""
    return ",".join(map(str, ids))


class Client:
    """Calls one server; every call has a deadline."""

    def __init__(self, address: str, http_port: int) -> None:
        self.http_port = http_port
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.lm: Any = lm_pb2_grpc.LMServiceStub(self.channel)

    def close(self) -> None:
        """Hangs up: what is under way is cancelled."""
        self.channel.close()

    def generate(
        self, ids: Sequence[int], *, model: str = SAMPLES, timeout: float = 120, **extra: float
    ) -> Any:
        """A call that runs."""
        return self.lm.Generate.future(_request(model, ids, extra), timeout=timeout)

    def stream(
        self, ids: Sequence[int], *, model: str = SAMPLES, timeout: float = 120, **extra: float
    ) -> Any:
        """A call that runs, and gives messages."""
        return self.lm.GenerateStream(_request(model, ids, extra), timeout=timeout)

    def score(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        *,
        model: str = SAMPLES,
        timeout: float = 120,
    ) -> Any:
        """A call that runs."""
        request = lm_pb2.ScoreRequest(
            model_key=model, prefix=text(prefix), suffix=[text(s) for s in suffixes]
        )
        return self.lm.Score.future(request, timeout=timeout)

    def fetch(self, path: str) -> tuple[int, str]:
        """Status and body of a page."""
        url = f"http://localhost:{self.http_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self, model: str = SAMPLES) -> "Metrics":
        """What the server tells of a model now."""
        return Metrics(self.fetch("/metrics")[1], model)


class Metrics:
    """One reading of /metrics, for one model."""

    def __init__(self, page: str, model: str) -> None:
        self._found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if (k, v) != ("model", model)}
                self._found[sample.name, frozenset(labels.items())] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """A sample without its prefix sax_."""
        return self._found[f"sax_{name}", frozenset(labels.items())]

    def by_reason(self, name: str) -> dict[str, float]:
        """The samples of a counter by reason; those that are 0 are left out."""
        return {
            dict(labels)["reason"]: value
            for (found, labels), value in self._found.items()
            if found == f"sax_{name}" and set(dict(labels)) == {"reason"} and value
        }


def _request(model: str, ids: Sequence[int], extra: Mapping[str, float]) -> lm_pb2.GenerateRequest:
    return lm_pb2.GenerateRequest(
        model_key=model, text=text(ids), extra_inputs=common_pb2.ExtraInputs(items=extra)
    )
