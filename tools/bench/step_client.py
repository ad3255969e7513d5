"""The client of step_profile, in a process of its own: reads calls from stdin, one a line,

    METHOD ADDRESS KEY ROWS PROMPT,PROMPT,...

makes ROWS of each at once, and says "done" when all have been answered. Ends with its input.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from saxml.proto import lm_pb2, lm_pb2_grpc


def call(stub: lm_pb2_grpc.LMServiceStub, method: str, request: lm_pb2.GenerateRequest) -> None:
    """One call, to its end."""
    if method == "stream":
        for _ in stub.GenerateStream(request):
            pass
    else:
        stub.Generate(request)


def main(argv: Sequence[str]) -> int:
    """Until stdin ends."""
    del argv
    with ThreadPoolExecutor(256) as pool:
        for line in sys.stdin:
            method, address, key, rows, prompt = line.split()
            with grpc.insecure_channel(address) as channel:
                stub = lm_pb2_grpc.LMServiceStub(channel)
                request = lm_pb2.GenerateRequest(model_key=key, text=prompt)
                calls = [pool.submit(call, stub, method, request) for _ in range(int(rows))]
                for made in calls:
                    made.result()
            print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
