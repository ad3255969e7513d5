"""Files that make a library fail become errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager

from saxml.common import errors


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Turns whatever a library raises into InvalidArgumentError "what: why". Libraries written in
    Rust raise their panics as a BaseException."""
    try:
        yield
    except errors.SaxError:
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        why = str(error).strip().split("\n")[0][:300]
        raise errors.InvalidArgumentError(f"{what}: {why or type(error).__name__}") from error
