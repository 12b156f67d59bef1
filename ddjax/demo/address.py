"""Address of the page: whether it is free, and who can reach it."""

import errno
import ipaddress
import socket

from ddjax.runtime.errors import UserError


def check(address: str, port: int) -> None:
    """Refuse what cannot be bound, before models are loaded.

    Raises:
      UserError: the port is in use, or the address is not this machine's.
    """
    try:
        is_v6 = ipaddress.ip_address(address).version == 6
    except ValueError:
        raise UserError(f"--address={address} is no IP address, such as 127.0.0.1") from None
    try:
        with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port={port} is in use; give another, or end what uses it") from None
        raise UserError(f"--address={address} --port={port}: {error.strerror}") from None


def warning(address: str, port: int) -> str:
    """Who can reach the page, where that is not this machine alone; else ""."""
    if ipaddress.ip_address(address).is_loopback:
        return ""
    return (
        f"--address={address}: whoever reaches this machine on port {port} can draw with its "
        "models; there is no password"
    )


def url(address: str, port: int) -> str:
    """What to open on this machine."""
    found = ipaddress.ip_address(address)
    if found.is_unspecified:
        return f"http://127.0.0.1:{port}"
    return f"http://[{address}]:{port}" if found.version == 6 else f"http://{address}:{port}"
