"""A connection string as Feast takes it: `host:port[,host:port...][,name=value...]`. Server, engine and jobs read it here."""

import ssl
from dataclasses import dataclass, field

from conf.errors import ClickoddsError

_KNOWN = {"username", "password", "db", "ssl", "ssl_cert_reqs"}
_TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_IGNORED = {"retry", "socket_timeout", "socket_connect_timeout", "decode_responses"}  # Feast's client's; ours has its own


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is and how to be let in. more_hosts: of a cluster, each of which knows the others; none: a single Redis."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: bool = False
    verified: bool = True
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    more_hosts: tuple[tuple[str, int], ...] = ()

    def ssl_context(self) -> ssl.SSLContext | None:
        """None without TLS. Raises ClickoddsError where its files cannot be read."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            raise ClickoddsError(f"settings: redis: its TLS files cannot be read ({error})") from None
        if not self.verified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> RedisAddress:
    """Raises ClickoddsError for a part that is not understood; a password is not repeated."""
    hosts: list[tuple[str, int]] = []
    options: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        host, colon, port = part.rpartition(":")
        if equals:
            options[name] = value
        elif colon and host and port.isdigit() and int(port) < 1 << 16:
            hosts.append((host, int(port)))
        else:
            raise ClickoddsError(f"settings: redis: found {part!r}, expected host:port")
    unknown = sorted(set(options) - _KNOWN - _TLS_FILES - _IGNORED)
    if unknown or not hosts:
        found = ", ".join(unknown) or "no host"
        raise ClickoddsError(f"settings: redis: found {found}, expected host:port and username, password, db, ssl or ssl_*")
    if not (db := options.get("db", "0")).isdigit():
        raise ClickoddsError(f"settings: redis: found db={db}, expected a number")
    if len(hosts) > 1 and int(db):
        raise ClickoddsError(f"settings: redis: found db={db} and {len(hosts)} hosts, expected db=0: a cluster has no other")
    address = RedisAddress(
        *hosts[0],
        username=options.get("username"),
        password=options.get("password"),
        db=int(db),
        tls=options.get("ssl", "false").lower() == "true",
        verified=options.get("ssl_cert_reqs") != "none",
        ca_file=options.get("ssl_ca_certs"),
        cert_file=options.get("ssl_certfile"),
        key_file=options.get("ssl_keyfile"),
        more_hosts=tuple(hosts[1:]),
    )
    address.ssl_context()  # now, not with the first request
    return address
