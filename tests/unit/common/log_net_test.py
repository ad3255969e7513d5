import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from saxml.common import net

_SCRIPT = """
import logging, threading
from saxml.common import log
log.setup()
logging.getLogger("saxml.x").info("hello %d", 5)
logging.getLogger("saxml.x").warning("careful")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("saxml.x").exception("broken")
log.fatal("Failed to start server: no luck")
"""


def test_log_lines_have_the_known_form() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True)
    assert done.returncode == 255
    assert done.stdout == ""
    stamp = r"\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ <string>:\d+\] "
    lines = done.stderr.splitlines()
    assert re.fullmatch("I" + stamp + "hello 5", lines[0])
    assert re.fullmatch("W" + stamp + "careful", lines[1])
    assert re.fullmatch("E" + stamp + "broken", lines[2])
    assert "ZeroDivisionError: division by zero" in lines
    assert re.fullmatch("F" + stamp + "Failed to start server: no luck", lines[-1])


def _machine(*addresses: tuple[str, str, str]) -> dict[str, list[SimpleNamespace]]:
    import socket

    found: dict[str, list[SimpleNamespace]] = {}
    for interface, address, netmask in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        entry = SimpleNamespace(family=family, address=address, netmask=netmask)
        found.setdefault(interface, []).append(entry)
    return found


def test_the_first_global_address_is_taken_and_all_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SAX_DEBUG_IPADDR", raising=False)
    machine = _machine(
        ("lo", "127.0.0.1", "255.0.0.0"),
        ("lo", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("eth0", "fe80::42%eth0", "ffff:ffff:ffff:ffff::"),
        ("eth0", "fd00::2", "ffff:ffff:ffff:ffff::"),
        ("eth0", "10.142.15.200", "255.255.240.0"),
        ("docker0", "172.17.0.1", "255.255.0.0"),
    )
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: machine)
    with caplog.at_level(logging.INFO, "saxml"):
        assert net.local_address() == "10.142.15.200"
    assert caplog.messages == [
        "Skipping non-global IP address 127.0.0.1/8.",
        "Skipping non-global IP address ::1/128.",
        "Skipping non-global IP address fe80::42/64.",
        "Skipping non-global IP address fd00::2/64.",
        "IPNet address 10.142.15.200",
        "IPNet address 172.17.0.1",
    ]


def test_a_machine_without_a_network_has_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAX_DEBUG_IPADDR", raising=False)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: _machine(("lo", "127.0.0.1", "255.0.0.0")))
    assert net.local_address() == "127.0.0.1"


def test_the_environment_forces_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SAX_DEBUG_IPADDR", "1")
    assert net.local_address() == "127.0.0.1"


def test_ipv6_hosts_get_brackets() -> None:
    assert net.join_host_port("10.0.0.1", 80) == "10.0.0.1:80"
    assert net.join_host_port("2001:db8::1", 80) == "[2001:db8::1]:80"
