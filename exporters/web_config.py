"""Prometheus' own web-config file: TLS and basic auth for HTTP, so that operators use the one that they have."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from exporters.listen import ListenError

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}

HEADERS = (
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)
"""Those that exporter-toolkit allows; the page has a Content-Security-Policy of its own."""

HASH = re.compile(r"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")
COST_MAX = 14
"""2^14 rounds are about 1 s: with more a question times out."""

NOBODY = "$2b$10$DwyEVw9TxeDWxlEBGLS61u4e7WjsYgTe50F24bTed90UnGR8IaAbu"
"""Checked for users that are not there, so that the time of a refusal does not tell who is."""

KNOWN_MAX = 256
"""Pairs of user and password that need not be hashed again."""


class WebConfigError(ListenError):
    """The file cannot be used; the text names it, says where it is wrong and what to do."""

    def __init__(self, path: Path, line: int | None, what: str, fix: str) -> None:
        self.parts = str(path), line, what, fix
        super().__init__(f"{path}{'' if line is None else f':{line}'}: {what}: {fix}")


Stamp = tuple[str, int, int, int]
"""Of one file, to tell that it was changed: path, inode, time of the change in ns, size."""


@dataclass(frozen=True)
class WebConfig:
    tls: ssl.SSLContext | None = None
    users: Mapping[str, str] = field(default_factory=dict)
    """Name and bcrypt hash; empty: everybody may ask."""
    headers: Mapping[str, str] = field(default_factory=dict)
    stamps: tuple[Stamp, ...] = ()


class Reader:
    """Walks the document; every complaint bears file and line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, node: yaml.Node, text: str, fix: str) -> WebConfigError:
        return WebConfigError(self.path, node.start_mark.line + 1, text, fix)

    def document(self) -> yaml.Node | None:
        try:
            return yaml.compose(self.path.read_text("utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise WebConfigError(self.path, None, str(error.strerror), "make it readable for the agent") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else None
            raise WebConfigError(self.path, line, str(error.problem or error.context), "mend the YAML") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise WebConfigError(self.path, None, " ".join(str(error).split()), "mend the YAML") from error

    def mapping(self, node: yaml.Node, known: tuple[str, ...] = ()) -> dict[str, yaml.Node]:
        """`known` empty: any key."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, "not a list of keys and values", "see Prometheus' documentation of web.config.file")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.text(key)
            if known and name not in known:
                raise self.wrong(key, f"{name!r} is not taken here", f"remove it; taken are {', '.join(known)}")
            if name in found:
                raise self.wrong(key, f"{name!r} is there twice", "keep one")
            found[name] = value
        return found

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong(node, "not a single value", "write a text")
        return str(node.value)

    def one_of(self, node: yaml.Node, allowed: tuple[str, ...]) -> str:
        value = self.text(node)
        if value not in allowed:
            raise self.wrong(node, f"{value!r} is not taken here", f"write one of {', '.join(allowed)}")
        return value


def read(path: Path) -> WebConfig:
    """Reads the file and what it names. Blocks; raises WebConfigError."""
    reader = Reader(path)
    # Each file is stamped before it is read: what is written meanwhile is a change.
    stamps = [_stamp(path)]
    root = reader.document()
    if root is None:
        return WebConfig(stamps=tuple(stamps))
    parts = reader.mapping(root, ("tls_server_config", "http_server_config", "basic_auth_users"))
    tls = _tls(reader, parts["tls_server_config"], stamps) if "tls_server_config" in parts else None
    users = _users(reader, parts["basic_auth_users"]) if "basic_auth_users" in parts else {}
    headers = _headers(reader, parts["http_server_config"]) if "http_server_config" in parts else {}
    return WebConfig(tls, users, headers, tuple(stamps))


def complaint(path: Path) -> tuple[str, int | None, str, str] | None:
    """What `read` would complain of: file, line, what is wrong, what to do. Blocks."""
    try:
        read(path)
    except WebConfigError as error:
        return error.parts
    return None


def changed(config: WebConfig) -> bool:
    """Whether one of the files is not what it was. Blocks."""
    return any(_stamp(Path(stamp[0])) != stamp for stamp in config.stamps)


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size


def _tls(reader: Reader, node: yaml.Node, stamps: list[Stamp]) -> ssl.SSLContext:
    keys = ("cert_file", "key_file", "client_auth_type", "client_ca_file", "min_version", "max_version")
    parts = reader.mapping(node, keys)

    def file(name: str) -> Path | None:
        if name not in parts or not (text := reader.text(parts[name])):
            return None
        path = reader.path.parent / text
        stamps.append(_stamp(path))
        return path

    certificate, key, authority = file("cert_file"), file("key_file"), file("client_ca_file")
    if certificate is None or key is None:
        raise reader.wrong(node, "TLS needs cert_file and key_file", "name both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "min_version" in parts:
        context.minimum_version = VERSIONS[reader.one_of(parts["min_version"], tuple(VERSIONS))]
    if "max_version" in parts:
        context.maximum_version = VERSIONS[reader.one_of(parts["max_version"], tuple(VERSIONS))]
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        fix = f"is {certificate} a certificate in PEM form, {key} its key, and both readable for the agent?"
        raise reader.wrong(node, f"certificate or key cannot be used ({error})", fix) from error
    if "client_auth_type" in parts:
        context.verify_mode = CLIENT_AUTH[reader.one_of(parts["client_auth_type"], tuple(CLIENT_AUTH))]
    if context.verify_mode is not ssl.CERT_NONE:
        if authority is None:
            raise reader.wrong(node, "clients are to be verified, but by nobody", "name client_ca_file")
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise reader.wrong(node, f"{authority} cannot be used ({error})", "is it a PEM file?") from error
    return context


def _users(reader: Reader, node: yaml.Node) -> dict[str, str]:
    users = {}
    for name, value in reader.mapping(node).items():
        hashed = reader.text(value)
        match = HASH.fullmatch(hashed)
        if match is None:
            raise reader.wrong(value, f"the password of {name!r} is no bcrypt hash", "make one with `htpasswd -nB`")
        if not 4 <= int(match[1]) <= COST_MAX:
            raise reader.wrong(value, f"the hash of {name!r} has cost {int(match[1])}", f"use 10 to {COST_MAX}")
        users[name] = hashed
    return users


def _headers(reader: Reader, node: yaml.Node) -> dict[str, str]:
    parts = reader.mapping(node, ("http2", "headers"))
    if "http2" in parts:
        # Read and of no effect: clients that could speak HTTP/2 agree on HTTP/1.1.
        reader.one_of(parts["http2"], ("true", "false"))
    if "headers" not in parts:
        return {}
    found = {name: reader.text(value) for name, value in reader.mapping(parts["headers"], HEADERS).items()}
    for name, value in found.items():
        if not value.isprintable() or not value.isascii():
            raise reader.wrong(parts["headers"], f"{name} has a value that no header can have", "use plain ASCII")
    return found


class Door:
    """Decides by an Authorization header who may ask. One hash at a time, off the loop, and none for who is known."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._known: dict[bytes, None] = {}

    async def admits(self, users: Mapping[str, str], header: str) -> bool:
        """`header`: the request's Authorization, or empty."""
        if not users:
            return True
        user, password = _credentials(header)
        if user is None:
            return False
        hashed = users.get(user)
        pair = hashlib.sha256(b"\0".join((user.encode(), (hashed or "").encode(), password))).digest()
        if pair in self._known:
            return True
        async with self._turn:
            good = await asyncio.to_thread(_matches, password, hashed or NOBODY)
        if not good or hashed is None:
            return False
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[pair] = None
        return True


def _credentials(header: str) -> tuple[str | None, bytes]:
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return None, b""
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        return (user.decode(), password) if colon else (None, b"")
    except (binascii.Error, UnicodeDecodeError):
        return None, b""


def _matches(password: bytes, hashed: str) -> bool:
    import bcrypt  # only where passwords are asked for

    try:
        # Prometheus' bcrypt looks at 72 bytes and no more; this one refuses longer passwords unless they are cut.
        return bcrypt.checkpw(password[:72], hashed.encode())
    except ValueError:
        return False


async def watch(
    config: WebConfig,
    path: Path,
    *,
    interval: float,
    use: Callable[[WebConfig], Awaitable[None]],
    complain: Callable[[str], None],
) -> None:
    """Reads the file again whenever it or a file that it names has changed; a bad one leaves the old in force.

    What is found counts when the next look finds the same: a file that is just being written is empty for a moment,
    and an empty one would let everybody in.
    """
    seen: tuple[Stamp, ...] | str = ""
    said = ""
    while True:
        await asyncio.sleep(interval)
        if not await asyncio.to_thread(changed, config):
            seen = said = ""
            continue
        found: WebConfig | None = None
        try:
            found = await asyncio.to_thread(read, path)
            finding: tuple[Stamp, ...] | str = found.stamps
        except WebConfigError as error:
            finding = str(error)
        before, seen = seen, finding
        if seen != before:
            continue
        if found is not None:
            config = found
            await use(config)
        elif seen != said:
            # Asked again each time, since it may be a file that this one did not name before; said once.
            said = str(seen)
            complain(f"{said}; the old web configuration stays in force")
