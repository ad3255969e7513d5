"""What an admin server is to its cell: the leader, or one that stands by."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """A moment's answer to who leads; the default is of one that knows nothing yet."""

    is_leader: bool = False
    # The term that is known: the leader's own, or the one that a standby saw last.
    term: int = 0
    # <ip:port> of the leader, or "".
    leader_address: str = ""
    # How often this process has renewed its lease, and how often it could not.
    renewals: int = 0
    failed_renewals: int = 0
    # Seconds since this process last read the lease, or renewed it.
    view_age_s: float = math.inf
    # What a standby waits for, or "".
    waiting_for: str = ""
    # Why it could not take over though nobody leads, or "".
    stuck: str = ""

    def ready(self, fresh_s: float) -> tuple[bool, str]:
        """Whether the process does its part, and in words what that is.

        A standby does as long as it could take over: it has seen the lease within fresh_s seconds,
        and nothing has kept it from taking a free one.
        """
        if self.is_leader:
            return True, f"leading, term {self.term}"
        leader = f"the leader is {self.leader_address}" if self.leader_address else "no leader yet"
        if math.isinf(self.view_age_s):
            return False, "starting: the lease has not been read yet"
        if self.view_age_s > fresh_s:
            return False, (
                f"cut off: the lease was last read {self.view_age_s:.0f} s ago,"
                f" longer than {fresh_s:g} s; {leader}"
            )
        if self.stuck:
            return False, f"cut off: {self.stuck}"
        return True, f"standing by, term {self.term}; {leader}"
