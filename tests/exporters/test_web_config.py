"""TLS and basic auth as Prometheus' web-config file asks for them, with real certificates and a real client."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exporters import http, web_config
from exporters.bus import Bus
from exporters.history import History
from exporters.http import Http
from exporters.listen import ListenError
from exporters.metrics import Metrics
from exporters.status import Status
from exporters.wall import Wall
from tests.exporters.events_of_every_kind import settings

HASHED = bcrypt.hashpw(b"sesame", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config: {cert_file: node.pem, key_file: node.key}\n"
USERS = f"basic_auth_users: {{ops: '{HASHED}'}}\n"


def certificate(folder: Path, name: str, number: int = 1) -> ssl.SSLContext:
    """Writes `name`.pem and `name`.key; returns a client's context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {number}")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return ssl.create_default_context(cafile=str(folder / f"{name}.pem"))


@asynccontextmanager
async def serving(file: Path, complain: Callable[[str], None] = lambda text: None) -> AsyncIterator[Http]:
    status = Status(settings(), Wall(lambda: 100.0), engine="embedded")
    metrics = Metrics(status, Bus(asyncio.get_running_loop()), reject_reasons=())
    history = History(status.wall)
    server = Http(status, metrics, history, idle=lambda: 0.0, web_config_file=str(file), complain=complain)
    await server.start("127.0.0.1:0")
    try:
        yield server
    finally:
        await server.close()


async def ask(url: str, *, tls: ssl.SSLContext | None = None, auth: tuple[str, str] | None = None) -> int:
    connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, force_close=True)
    pair = base64.b64encode(":".join(auth).encode()).decode() if auth else ""
    headers = {"Authorization": f"Basic {pair}"} if auth else {}
    async with aiohttp.ClientSession(connector=connector) as client, client.get(url, headers=headers) as response:
        await response.read()
        return response.status


async def test_tls_and_passwords(tmp_path: Path) -> None:
    trust = certificate(tmp_path, "node")
    (tmp_path / "web.yml").write_text(TLS + USERS)
    async with serving(tmp_path / "web.yml") as server:
        url = f"https://127.0.0.1:{server.port}/-/healthy"
        assert await ask(url, tls=trust) == 401
        assert await ask(url, tls=trust, auth=("ops", "sesame")) == 200
        assert await ask(url, tls=trust, auth=("ops", "sesame")) == 200
        for user, password in (("ops", "Sesame"), ("", "sesame"), ("root", "sesame"), ("ops", ""), ("ops", "x" * 500)):
            assert await ask(url, tls=trust, auth=(user, password)) == 401
        for path in ("", "metrics", "api/v1/status", "api/v1/events", "-/ready", "nowhere"):
            assert await ask(f"https://127.0.0.1:{server.port}/{path}", tls=trust) == 401
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(url)
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(url.replace("https", "http"))


@pytest.mark.parametrize("header", ["Basic", "Basic !", "Basic b3Bz", "Bearer x", "Basic /w==", "basic  "])
async def test_no_header_is_taken_for_a_password(header: str) -> None:
    assert not await web_config.Door().admits({"ops": HASHED}, header)


async def test_the_password_that_unknown_users_are_measured_by_opens_nothing() -> None:
    word = b"no user has this one"
    assert bcrypt.checkpw(word, web_config.NOBODY.encode())
    header = f"Basic {base64.b64encode(b'nobody:' + word).decode()}"
    assert not await web_config.Door().admits({"ops": HASHED}, header)


async def test_a_new_certificate_and_new_users_are_taken_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "WATCH_INTERVAL", 0.01)
    first = certificate(tmp_path, "node", 1)
    file = tmp_path / "web.yml"
    file.write_text(TLS)
    complaints: asyncio.Queue[str] = asyncio.Queue()
    async with serving(file, complaints.put_nowait) as server, asyncio.timeout(60):
        url = f"https://127.0.0.1:{server.port}/-/healthy"
        assert await ask(url, tls=first) == 200
        second = certificate(tmp_path, "node", 2)
        while True:
            try:
                assert await ask(url, tls=second) == 200
                break
            except aiohttp.ClientConnectionError:
                continue
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(url, tls=first)
        file.write_text("tls_server_config: {cert_fil: node.pem}\n")
        # Until the second certificate's key was there, pair and complaint were of the first.
        while "cert_fil'" not in (said := await complaints.get()):
            pass
        assert "web.yml:1: 'cert_fil' is not taken here" in said
        assert "stays in force" in said
        assert await ask(url, tls=second) == 200
        file.write_text(USERS)
        while True:
            try:
                if await ask(url.replace("https", "http")) == 401:
                    break
            except aiohttp.ClientConnectionError:
                continue


async def test_a_file_that_is_just_being_written_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated, then filled: between the two it asks for no password."""
    file = tmp_path / "web.yml"
    file.write_text(USERS)
    before = web_config.read(file)
    file.write_text("")
    read = web_config.read
    seen: list[web_config.WebConfig] = []
    used: asyncio.Queue[web_config.WebConfig] = asyncio.Queue()

    def read_and_go_on_writing(path: Path) -> web_config.WebConfig:
        found = read(path)
        if not seen:
            file.write_text(USERS.replace("ops", "dev"))
        seen.append(found)
        return found

    monkeypatch.setattr(web_config, "read", read_and_go_on_writing)
    watching = asyncio.create_task(
        web_config.watch(before, file, interval=0.001, use=used.put, complain=lambda text: None)
    )
    async with asyncio.timeout(60):
        first = await used.get()
    watching.cancel()
    assert not seen[0].users, "it was seen empty"
    assert list(first.users) == ["dev"]


async def test_no_client_hangs_while_tls_goes_on_and_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WATCH_INTERVAL", 0.001)
    trust = certificate(tmp_path, "node")
    file = tmp_path / "web.yml"
    file.write_text(TLS)
    async with serving(file) as server:
        for text, scheme in ((USERS, "http"), (TLS, "https")) * 10:
            file.write_text(text)
            while True:
                try:
                    async with asyncio.timeout(30):
                        await ask(f"{scheme}://127.0.0.1:{server.port}/-/healthy", tls=trust)
                    break
                except aiohttp.ClientConnectionError:
                    continue


async def test_clients_with_a_certificate_only(tmp_path: Path) -> None:
    trust = certificate(tmp_path, "node")
    certificate(tmp_path, "prometheus")
    text = (
        "tls_server_config: {cert_file: node.pem, key_file: node.key, client_ca_file: prometheus.pem,"
        " client_auth_type: RequireAndVerifyClientCert, min_version: TLS13}\n"
        "http_server_config: {http2: false, headers: {X-Frame-Options: deny}}\n"
    )
    (tmp_path / "web.yml").write_text(text)
    async with serving(tmp_path / "web.yml") as server:
        url = f"https://127.0.0.1:{server.port}/-/healthy"
        with pytest.raises(aiohttp.ClientError):
            await ask(url, tls=trust)
        trust.load_cert_chain(tmp_path / "prometheus.pem", tmp_path / "prometheus.key")
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(connector=connector) as client, client.get(url) as response:
            assert (response.status, response.headers["X-Frame-Options"]) == (200, "deny")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "mend the YAML"),
        ("rate_limit: {}", "web.yml:1: 'rate_limit' is not taken here: remove it; taken are tls_server_config"),
        ("\ntls_server_config: {cert_file: node.pem}", "web.yml:2: TLS needs cert_file and key_file"),
        ("tls_server_config: {cert_file: no.pem, key_file: no.key}", "certificate or key cannot be used"),
        ("tls_server_config: {cert_file: node.pem, key_file: node.key, min_version: TLS10}", "'TLS10' is not taken"),
        (
            "tls_server_config: {cert_file: node.pem, key_file: node.key, client_auth_type: RequestClientCert}",
            "'RequestClientCert' is not taken here: write one of NoClientCert, Verify",
        ),
        (
            "tls_server_config: {cert_file: node.pem, key_file: node.key, client_auth_type: VerifyClientCertIfGiven}",
            "name client_ca_file",
        ),
        ("basic_auth_users: {ops: sesame}", "the password of 'ops' is no bcrypt hash: make one with `htpasswd -nB`"),
        (f"basic_auth_users: {{ops: '$2b$31{HASHED[6:]}'}}", "cost 31"),
        (f"basic_auth_users: {{ops: '{HASHED}', ops: '{HASHED}'}}", "'ops' is there twice"),
        ("basic_auth_users: [ops]", "not a list of keys and values"),
        ("http_server_config: {headers: {Server: x}}", "'Server' is not taken here"),
        ('http_server_config: {headers: {X-Frame-Options: "a\\r\\nb"}}', "no header can have"),
        ("http_server_config: {http2: maybe}", "'maybe' is not taken here"),
    ],
)
async def test_a_wrong_file_is_told_with_line_and_remedy(tmp_path: Path, text: str, complaint: str) -> None:
    certificate(tmp_path, "node")
    file = tmp_path / "web.yml"
    file.write_text(text)
    with pytest.raises(ListenError) as caught:
        async with serving(file):
            pass
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


async def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file or directory: make it readable"):
        async with serving(tmp_path / "web.yml"):
            pass


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("text", [TLS, USERS, TLS + USERS])
def test_prometheus_takes_the_same_file(tmp_path: Path, text: str) -> None:
    certificate(tmp_path, "node")
    (tmp_path / "web.yml").write_text(text)
    web_config.read(tmp_path / "web.yml")
    subprocess.run(["promtool", "check", "web-config", str(tmp_path / "web.yml")], check=True, timeout=60)
