"""Terms of admin servers."""

import pytest

from saxml.common import errors
from saxml.common.names import TERM_METADATA
from saxml.server.term import TermFence


def test_a_term_that_is_over_is_refused() -> None:
    fence = TermFence()
    fence.check([(TERM_METADATA, "3")])
    fence.check([(TERM_METADATA, "3")])
    fence.check([(TERM_METADATA, "5"), ("other", "x")])
    with pytest.raises(errors.FailedPreconditionError, match="term 3 is over: term 5"):
        fence.check([(TERM_METADATA, "3")])


def test_admin_servers_without_terms_pass() -> None:
    fence = TermFence()
    fence.check([(TERM_METADATA, "3")])
    fence.check([("user-agent", "grpc-go")])


def test_a_term_that_is_no_number_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="three"):
        TermFence().check([(TERM_METADATA, "three")])
