"""How much prompts may slow down those who decode, from what steps cost on this machine.

A step costs about the same for every plan of its bucket, and much more in larger ones. A stream's
time between tokens is the time of a step, so a bounded ratio of steps that take prompts along to
steps that only decode bounds how uneven a stream is.
"""

from collections.abc import Iterator, Sequence

# Steps that take prompts along may take so many times what the decode rows alone would take.
STRETCH = 2.0


def mix(buckets: Sequence[int], seconds: Sequence[float], stretch: float = STRETCH) -> list[int]:
    """For each bucket the largest one whose steps take at most `stretch` times as long.

    buckets: tokens, ascending; seconds: what a step of each takes. The result is what
    native.Scheduler.set_mix takes. A bucket behind one that is too slow is not looked at, however
    fast it was measured.
    """
    largest = []
    for first, limit in enumerate(seconds):
        last = first
        while last + 1 < len(buckets) and seconds[last + 1] <= stretch * limit:
            last += 1
        largest.append(buckets[last])
    return largest


def lines(
    buckets: Sequence[int], seconds: Sequence[float], largest: Sequence[int]
) -> Iterator[str]:
    """What `mix` made of it, for the log."""
    for bucket, took, bound in zip(buckets, seconds, largest, strict=True):
        yield (
            f"a {bucket}-token step takes {took * 1e3:.1f} ms; beside decoding rows of its size"
            f" prompts fill up to {bound} tokens"
        )
