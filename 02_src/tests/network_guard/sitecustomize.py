"""Found first on PYTHONPATH, so every Python below a test runs this: no connection leaves.

Each attempt to reach anything but this machine is written to NETWORK_ATTEMPTS and refused.
"""

import os
import socket

LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
connect, look_up = socket.socket.connect, socket.getaddrinfo


def refuse(target: object) -> None:
    """Note an attempt, and fail as a machine without a network does."""
    with open(os.environ["NETWORK_ATTEMPTS"], "a", encoding="utf-8") as stream:
        stream.write(f"{target}\n")
    raise OSError(101, "Network is unreachable")


def guarded_connect(self: socket.socket, address: object) -> object:
    """connect, to this machine only."""
    if isinstance(address, tuple) and not str(address[0]).startswith(LOCAL):
        refuse(address)
    return connect(self, address)


def guarded_look_up(host: object, *arguments: object, **options: object) -> object:
    """getaddrinfo, for this machine's names only."""
    if host is not None and not str(host).startswith(LOCAL):
        refuse(host)
    return look_up(host, *arguments, **options)


socket.socket.connect = socket.socket.connect_ex = guarded_connect
socket.getaddrinfo = guarded_look_up
