"""The addresses that serve a model, as the admin server's WatchLoc answers tell them."""

from dataclasses import dataclass

from saxml.proto import admin_pb2


@dataclass(frozen=True, slots=True)
class AddressChange:
    """What one answer changed."""

    reset: bool  # forget all earlier addresses
    steps: tuple[tuple[str, str], ...]  # ("+" or "-", address), in order


class AddressSet:
    """Follows WatchLoc: full sets, change logs, and admin servers that come anew.

    response = call(address_set.request(model_id))
    change = address_set.apply(response)
    """

    def __init__(self) -> None:
        self.addresses: frozenset[str] = frozenset()
        self._seqno = 0
        self._admin_server_id = ""

    def request(self, model_id: str) -> admin_pb2.WatchLocRequest:
        """Asks for what comes after the last answer; the admin server waits until there is any."""
        return admin_pb2.WatchLocRequest(
            model_id=model_id, seqno=self._seqno, admin_server_id=self._admin_server_id
        )

    def apply(self, response: admin_pb2.WatchLocResponse) -> AddressChange:
        """Takes an answer in.

        An admin server with a new id has counted from zero: its first answer, full set or not, is
        all there is.
        """
        result = response.result
        other_admin = bool(self._admin_server_id) and (
            response.admin_server_id != self._admin_server_id
        )
        reset = result.has_fullset or other_admin
        steps = [("+", address) for address in sorted(result.values)] if reset else []
        for mutation in result.changelog:
            if mutation.HasField("addition"):
                steps.append(("+", mutation.addition))
            elif mutation.HasField("deletion"):
                steps.append(("-", mutation.deletion))
        addresses = set() if reset else set(self.addresses)
        for sign, address in steps:
            if sign == "+":
                addresses.add(address)
            else:
                addresses.discard(address)
        self.addresses = frozenset(addresses)
        self._seqno = result.next_seqno
        self._admin_server_id = response.admin_server_id
        return AddressChange(reset, tuple(steps))
