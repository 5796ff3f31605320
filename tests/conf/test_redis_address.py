"""One connection string for Feast, the engine and the server."""

import pytest

from conf.errors import ClickoddsError
from conf.redis_address import parse_address


@pytest.mark.parametrize(
    "text",
    ["localhost", "localhost:redis", ":6379", "", "localhost:99999", "a:1,b", "a:1,b:2,db=1", "a:1,db=x", "a:1,sl=true",
     "a:1,ssl=true,ssl_ca_certs=/n"],
)
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(ClickoddsError, match="settings: redis: "):
        parse_address(text)


def test_an_address_is_feast_s() -> None:
    address = parse_address("redis.example:6380,db=2,username=reader,password=p=w,retry=null,socket_timeout=10")
    assert (str(address), address.db, address.username, address.password) == ("redis.example:6380", 2, "reader", "p=w")
    assert not address.tls
    assert address.ssl_context() is None


def test_several_hosts_are_a_cluster() -> None:
    address = parse_address("a:1,b:2,c:3,password=p")
    assert ((address.host, address.port), address.more_hosts) == (("a", 1), (("b", 2), ("c", 3)))
    assert parse_address("a:1").more_hosts == ()


def test_tls_is_asked_for_and_its_files_are_named() -> None:
    address = parse_address("redis.example:6380,ssl=true,ssl_cert_reqs=none")
    context = address.ssl_context()
    assert context is not None
    assert not context.check_hostname
    assert parse_address("redis.example:6380,ssl=true").verified
