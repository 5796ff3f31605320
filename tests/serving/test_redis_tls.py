"""Redis behind TLS with a certificate of one's own, and a user that may only read: the server as its users start it."""

import asyncio
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from conf.contract import Contract
from conf.redis_address import parse_address
from conf.redis_server import find_redis, free_port
from conf.settings import ROOT
from serving.app import PREDICT
from serving.redis_link import LinkError, RedisLink, command
from tests.serving.installation import Installation
from tests.serving.parts import FeastStore, fill
from tests.serving.proxy import proxy
from tests.serving.test_change_under_load import BODY

NATIVE, IN_FRONT = "a Redis that speaks it", "a proxy in front"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, which signed cert.pem of 127.0.0.1, and another.pem, which signed nothing."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "rsa:2048", "-nodes"]
    for name in ("ca", "another"):
        openssl("req", "-x509", *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl("req", *new, "-subj", "/CN=redis", "-keyout", "key.pem", "-out", "asked.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "asked.pem", *signed, "-out", "cert.pem")
    return folder


@contextmanager
def _native(files: Path, folder: Path, plain_port: int) -> Iterator[int]:
    """The port where a Redis of its own speaks TLS; skips where the binary at hand cannot."""
    port = free_port()
    tls: list[Any] = ["--tls-port", port, "--tls-cert-file", files / "cert.pem", "--tls-key-file", files / "key.pem"]
    tls += ["--tls-ca-cert-file", files / "ca.pem", "--tls-auth-clients", "no"]
    command = [find_redis(), "--bind", "127.0.0.1", "--port", plain_port, "--dir", folder, "--save", "", *tls]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _listens(server, port)
            yield port
        finally:
            server.kill()


def _listens(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        if server.poll() is not None:
            pytest.skip("the redis-server at hand does not speak TLS")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("it does not listen")


@pytest.fixture(params=[NATIVE, IN_FRONT])
def secured(
    request: pytest.FixtureRequest, files: Path, tmp_path: Path, feast_stores: dict[str, FeastStore], redis_address: str
) -> Iterator[tuple[str, int]]:
    """A filled Redis with the user of docs/serving.md: where it speaks TLS, and its port without."""
    plain_port = free_port() if request.param == NATIVE else int(redis_address.rpartition(":")[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "cert.pem", files / "key.pem")

    def ready(port: int) -> tuple[str, int]:
        fill(feast_stores["demo"], f"127.0.0.1:{plain_port}")
        said = re.search(r"ACL SETUSER .*", (ROOT / "docs" / "serving.md").read_text())
        assert said is not None
        with redis.Redis(port=plain_port) as client:
            client.execute_command(*said[0].split())
        return f"127.0.0.1:{port},ssl=true", plain_port

    if request.param == NATIVE:
        with _native(files, tmp_path, plain_port) as port:
            yield ready(port)
    else:
        with proxy(plain_port, context) as front:
            yield ready(front.port)


def test_a_server_reads_through_tls_as_a_user_that_may_only_read(
    secured: tuple[str, int], files: Path, demo: Contract, tmp_path: Path
) -> None:
    address, plain_port = secured
    reader = f"{address},ssl_ca_certs={files / 'ca.pem'},username=serving,password=secret"
    installation = Installation.make(tmp_path / "state", reader)
    installation.publish(demo)
    with redis.Redis(port=plain_port) as client, installation.serving() as (server, _):
        answer = server.post(PREDICT, json=BODY).json()
        assert (answer["degraded"], answer["reasons"]) == (False, [])
        users = [one for one in client.client_list() if one["user"] == "serving"]
        assert len(users) >= 2, "one connection for requests, one for the candidates"
        assert any("t" in one["flags"] for one in users), "Redis tracks what it is to be told of"
    assert "redis" not in installation.log()
    assert "kept fresh" not in installation.log()


def test_who_is_not_known_is_not_believed(secured: tuple[str, int], files: Path) -> None:
    """Another's signature, no signature that is known here, a name that is not the certificate's, TLS where none is."""
    address, plain_port = secured
    port = address.partition(",")[0].rpartition(":")[2]

    async def run() -> None:
        good = f"{address},ssl_ca_certs={files / 'ca.pem'}"
        for wrong, why in (
            (f"{address},ssl_ca_certs={files / 'another.pem'}", "certificate verify failed"),
            (address, "certificate verify failed"),
            (good.replace("127.0.0.1", "localhost"), "not valid for 'localhost'"),
            (good.replace(port, str(plain_port)), "record layer|SSL|WRONG_VERSION|no answer|closed"),
            (f"127.0.0.1:{port}", "closed|no answer|reset"),
            (f"{good},username=serving,password=wrong", "WRONGPASS|invalid"),
        ):
            with pytest.raises(LinkError, match=why):
                await RedisLink.connect(parse_address(wrong))
        for right in (good, f"{address},ssl_cert_reqs=none"):
            link = await RedisLink.connect(parse_address(right))
            assert await link.ask([command("PING")]) in ([b"PONG"], ["PONG"])
            link.close()

    asyncio.run(run())


def test_a_reader_may_write_nothing(secured: tuple[str, int], files: Path) -> None:
    async def run() -> None:
        address = parse_address(f"{secured[0]},ssl_ca_certs={files / 'ca.pem'},username=serving,password=secret")
        assert "secret" not in repr(address)
        link = await RedisLink.connect(address)
        refused = [["SET", "a", "1"], ["HSET", "a", "b", "1"], ["DEL", "a"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"]]
        said = await link.ask([command(*words) for words in refused])
        assert all("permissions" in str(reply) for reply in said), said
        link.close()

    asyncio.run(run())


def test_a_server_with_wrong_files_does_not_start(demo: Contract, tmp_path: Path) -> None:
    installation = Installation.make(tmp_path, f"127.0.0.1:1,ssl=true,ssl_ca_certs={tmp_path / 'not there'}")
    installation.publish(demo)
    with pytest.raises(AssertionError, match="its TLS files cannot be read"), installation.serving() as (server, _):
        assert isinstance(server, httpx2.Client)
