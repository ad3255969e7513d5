"""How often, and how long, an admin server does what it does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Periods:
    """Seconds between, or allowed for, what the manager does."""

    refresh: float = 10.0
    poll: float = 10.0
    # Two polls in a row without an answer, and clients are not sent there: before it is pruned.
    poll_timeout: float = 5.0
    # A server that does not answer is asked this often.
    poll_silent: float = 1.0
    prune: float = 25.0
    dial: float = 10.0
    join_status: float = 5.0
    # How long a restarted admin server waits for servers to come back with what they have loaded.
    rejoin: float = 12.0
    # How long clients have to learn that a replica is gone before it is unloaded.
    grace: float = 1.0
    # How long a model waits for the size of its checkpoint before it is placed without.
    size: float = 5.0
