"""A packet socket on one interface that hears one protocol through a filter in the kernel, and can send there.

It is bound to its protocol: unlike one that hears all it gets no frame that this machine sends, and no other protocol
passes through it. The interface is not made promiscuous. The filter stands before the socket is bound and is replaced
at once: no frame is judged by a half-made one, and none is missed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Sequence

from agent.drivers import bpf_filter
from agent.drivers.bpf_filter import Instruction
from agent.drivers.records import LinkRecord

READS = 32
"""Frames read in one turn of the loop: 0.15 ms."""

PAUSE = 0.005
"""Seconds for which nothing is read after a turn that found more.

So 6,400 frames a second at most, 3 % of a core, whatever comes in. The rest waits in the socket (about 270 frames by
default) and is then dropped by the kernel, and counted.
"""

_PACKET_STATISTICS = 6
_SOL_PACKET = 263

Programs = Callable[[int], Sequence[Instruction]]
"""A program that has at most so many instructions."""


class Ear:
    """Opens as soon as the interface is there, and again when it comes back."""

    def __init__(self, interface: str, protocol: int, on_frame: Callable[[str, bytes], None]) -> None:
        self.interface = interface
        self._missed = 0
        self._protocol = protocol
        self._on_frame = on_frame
        self._socket: socket.socket | None = None
        self._ifindex = 0
        self._programs: Programs = lambda most: bpf_filter.NOTHING
        self._resume: asyncio.Handle | None = None

    def follow(self, link: LinkRecord | None) -> None:
        """The kernel's word on the interface. Raises OSError when no socket can be had (EPERM, EMFILE)."""
        if link is None or link.ifindex != self._ifindex:
            self.close()
        if link is not None and self._socket is None:
            self._open(link)

    def hear(self, programs: Programs) -> None:
        """Replaces the filter. Raises OSError."""
        self._programs = programs
        if self._socket is not None:
            _attach(self._socket, programs)

    def send(self, frame: bytes) -> str:
        """Empty: sent; else the name of the error (ENODEV: no such interface)."""
        if self._socket is None:
            return "ENODEV"
        try:
            self._socket.send(frame)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "EIO")
        return ""

    def close(self) -> None:
        """Closes in another thread: the kernel waits for every processor to let go of the socket."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._socket is None:
            return
        self.missed()  # the kernel's count goes with the socket
        closing, self._socket, self._ifindex = self._socket, None, 0
        loop = asyncio.get_running_loop()
        loop.remove_reader(closing)
        loop.run_in_executor(None, closing.close)

    def missed(self) -> int:
        """Frames so far that passed the filter and were dropped, because more came than are read."""
        if self._socket is not None:
            _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self._missed += dropped
        return self._missed

    def look(self) -> None:
        """Reads what is waiting now, without regard to pauses: for who must know before he decides."""
        if self._socket is not None:
            self._read(self._socket)

    def _open(self, link: LinkRecord) -> None:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            opened.setblocking(False)
            _attach(opened, self._programs)
            opened.bind((link.name, self._protocol))
        except OSError as error:
            opened.close()
            if error.errno in (errno.ENODEV, errno.ENXIO):
                return  # it was renamed or removed meanwhile: the kernel's next word brings us back
            raise
        self._socket, self._ifindex = opened, link.ifindex
        asyncio.get_running_loop().add_reader(opened, self._on_readable)

    def _on_readable(self) -> None:
        heard = self._socket
        if heard is None or self._read(heard):
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(heard)
        self._resume = loop.call_later(PAUSE, self._listen)

    def _listen(self) -> None:
        self._resume = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._on_readable)

    def _read(self, heard: socket.socket) -> bool:
        """True: nothing is left. Ends early when a frame's hearer closes the ear."""
        for _ in range(READS):
            try:
                frame = heard.recv(bpf_filter.SNAP)
            except BlockingIOError:
                return True
            except OSError:
                return True  # ENETDOWN, told once when the interface goes down
            self._on_frame(self.interface, frame)
            if self._socket is not heard:
                return True
        return False


def _attach(sock: socket.socket, programs: Programs) -> None:
    """The longest program that the kernel has room for: an exact one, or one that lets more pass."""
    shortest = bpf_filter.LENGTHS[-1]
    for most in bpf_filter.LENGTHS:
        try:
            bpf_filter.attach(sock, programs(most))
        except OSError as error:
            if most == shortest or error.errno not in (errno.ENOMEM, errno.EINVAL):
                raise
        else:
            return
