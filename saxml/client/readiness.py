"""Waiting until a model is served, with a word on how far it is, and why not if it never will."""

from collections.abc import Callable
from dataclasses import dataclass

from saxml.client.admin_client import AdminClient
from saxml.client.retry import Deadline
from saxml.common.clock import Clock, SystemClock
from saxml.common.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)

# How long the admin server is waited for before progress is looked at again.
_LOOK_S = 0.5
# How the admin server begins the reason of a replica whose load has failed.
_LOAD_FAILED = "load failed "


@dataclass(frozen=True, slots=True)
class Progress:
    """A model on its way."""

    model_id: str
    wanted: int
    # Servers that were told to load it.
    assigned: int
    # Those that have, and those of them that have the published checkpoint; None if the admin
    # server does not say.
    ready: int | None
    current: int | None
    # Why replicas have no place, or "".
    why: str


def wait_until_ready(
    admin: AdminClient,
    model_id: str,
    num_replicas: int | None,
    timeout_s: float,
    show: Callable[[Progress], None],
    clock: Clock | None = None,
) -> None:
    """Waits until so many replicas (None: all that are asked for) serve the published checkpoint.

    `show` is told at once and then about twice a second. Raises FailedPreconditionError with the
    reason when a load has failed and no other server is left to try, DeadlineExceededError with
    what is missing when the time is over, NotFoundError when the model is not published (any more).
    """
    clock = clock or SystemClock()
    deadline = Deadline(clock, timeout_s)
    while True:
        progress = _look(admin, model_id, num_replicas, deadline)
        show(progress)
        if progress.current is not None and progress.current >= progress.wanted:
            return
        if _LOAD_FAILED in progress.why:
            raise FailedPreconditionError(f"model {model_id}: {progress.why}")
        left = deadline.remaining()
        try:
            admin.wait_for_ready(model_id, progress.wanted, min(_LOOK_S, left))
        except CancelledError as error:
            raise NotFoundError(f"model {model_id} was unpublished") from error
        except (DeadlineExceededError, UnavailableError) as error:
            if deadline.remaining() <= 0:
                raise _too_late(progress, timeout_s) from error
        else:
            if progress.ready is None:
                return
            if progress.ready >= progress.wanted:
                # The admin server counts replicas of the former checkpoint, which serve.
                clock.sleep(min(_LOOK_S, left))
                if deadline.remaining() <= 0:
                    raise _too_late(progress, timeout_s)


def _look(
    admin: AdminClient, model_id: str, num_replicas: int | None, deadline: Deadline
) -> Progress:
    state = admin.model_state(model_id, deadline.remaining())
    model = state.published.model
    wanted = model.requested_num_replicas if num_replicas is None else num_replicas
    return Progress(
        model_id,
        wanted,
        len(state.published.modelet_addresses),
        state.ready,
        state.current,
        state.why,
    )


def _too_late(progress: Progress, timeout_s: float) -> DeadlineExceededError:
    ready = "fewer" if progress.ready is None else progress.ready
    if progress.ready and progress.current is not None and progress.current < progress.ready:
        ready = f"{ready} (of the published checkpoint: {progress.current})"
    why = f": {progress.why}" if progress.why else ""
    return DeadlineExceededError(
        f"model {progress.model_id} has {ready} of {progress.wanted} replicas ready "
        f"after {timeout_s:.3g} s{why}"
    )
