"""`http.listen` to a listening socket."""

from __future__ import annotations

import errno
import socket


class ListenError(Exception):
    """The address cannot be listened on; the text says what to do."""


def parse(text: str) -> tuple[str | None, int]:
    """`:9748` (every address, both families), `127.0.0.1:9748`, `[::1]:9748`, `name:9748`: host or None, and port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ListenError(
            f"http.listen {text!r} is no address: write it like ':9748', '127.0.0.1:9748' or '[::1]:9748'"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ListenError(f"http.listen {text!r}: an IPv6 address goes in brackets, like '[{host}]:{port}'")
    return host or None, int(port)


def open_socket(text: str) -> socket.socket:
    """Listening, non-blocking. For "every address" one IPv6 socket that takes IPv4 as well, if the kernel has IPv6."""
    host, port = parse(text)
    try:
        if host is not None:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            return _bind(found[0][0], found[0][4])
        try:
            return _bind(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            return _bind(socket.AF_INET, ("0.0.0.0", port))
    except socket.gaierror as error:
        raise ListenError(
            f"http.listen {text!r}: {host} cannot be resolved ({error.strerror}): use an address"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = (
                f"port {port} is in use: stop the other program (`ss -ltnp 'sport = :{port}'`) or take another port"
            )
        elif error.errno == errno.EADDRNOTAVAIL:
            advice = f"{host} is not an address of this host: use one of `ip address`, or ':{port}' for all"
        elif error.errno == errno.EACCES:
            advice = f"port {port} is not allowed to this user: take one above 1023"
        else:
            advice = str(error.strerror)
        raise ListenError(f"http.listen {text!r}: {advice}") from error


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        sock.bind(address)
        sock.listen(128)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
