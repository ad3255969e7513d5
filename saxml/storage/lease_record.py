"""What the lease of a cell says; admin servers elect their leader by it (admin/lease.py)."""

import json
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """What the object says, as JSON."""

    holder: str
    # Tells processes apart, which may have the same address one after the other.
    server_id: str
    # Counts changes of the holder.
    term: int
    ttl_s: float
    # The holder has given it back: anybody may take it at once.
    released: bool = False

    def to_bytes(self) -> bytes:
        """The object's content."""
        text = (
            f'{{"holder": {json.dumps(self.holder)}, "server_id": {json.dumps(self.server_id)}, '
            f'"term": {self.term}, "ttl_s": {self.ttl_s}, "released": {json.dumps(self.released)}}}'
        )
        return text.encode() + b"\n"

    @staticmethod
    def from_bytes(data: bytes) -> "Record":
        """Raises ValueError if it is no lease; names that are not known are skipped."""
        try:
            fields = json.loads(data)
            record = Record(
                holder=str(fields["holder"]),
                server_id=str(fields["server_id"]),
                term=int(fields["term"]),
                ttl_s=float(fields["ttl_s"]),
                released=bool(fields.get("released", False)),
            )
        except (KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if record.term < 1 or not 0 < record.ttl_s < math.inf:
            raise ValueError(f"term {record.term} or ttl_s {record.ttl_s} is out of range")
        return record
