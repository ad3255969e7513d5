"""Addresses of this machine."""

import ipaddress
import logging
import os
import socket

import psutil

_logger = logging.getLogger(__name__)
_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def local_address() -> str:
    """The first global unicast address of this machine, IPv4 before IPv6.

    The environment SAX_DEBUG_IPADDR=1 forces 127.0.0.1, which is also the answer, with a warning,
    on a machine without a network.
    """
    if os.environ.get("SAX_DEBUG_IPADDR") == "1":
        return "127.0.0.1"
    usable = []
    for interface in _interfaces():
        if _is_usable(interface.ip):
            usable.append(interface)
        else:
            _logger.info("Skipping non-global IP address %s.", interface.with_prefixlen)
    for interface in usable:
        _logger.info("IPNet address %s", interface.ip)
    if not usable:
        _logger.warning("No network: using 127.0.0.1, which other machines cannot reach")
        return "127.0.0.1"
    return str(usable[0].ip)


def join_host_port(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _interfaces() -> list[_Interface]:
    found: list[_Interface] = []
    for addresses in psutil.net_if_addrs().values():
        for a in addresses:
            if a.family == socket.AF_INET:
                found.append(ipaddress.IPv4Interface(f"{a.address}/{a.netmask or 32}"))
            elif a.family == socket.AF_INET6:
                prefix = int(ipaddress.IPv6Address(a.netmask or 0)).bit_count() or 128
                found.append(ipaddress.IPv6Interface(f"{a.address.split('%')[0]}/{prefix}"))
    return sorted(found, key=lambda i: i.version)


def _is_usable(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    # fc00::/7 and above are private to a site.
    return ip.version == 4 or ip.packed[0] < 0xFC
