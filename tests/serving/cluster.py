"""A Redis Cluster of a few processes on the loopback."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

from conf.redis_server import find_redis, free_port
from serving.redis_cluster import slot_of

SLOTS = 16_384
PRIMARIES = 3


@dataclass
class Node:
    """One process of it."""

    process: subprocess.Popen[bytes]
    port: int
    bus_port: int

    def __call__(self, *words: Any) -> Any:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        said: bytes = self("CLUSTER", "MYID")
        return said.decode()

    def says(self, about: str, line: str) -> bool:
        """Whether CLUSTER INFO, or INFO, has this line now."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            said: Any = client.cluster("INFO") if about == "CLUSTER" else client.info("replication")
        name, _, value = line.partition(":")
        return str(said.get(name)) == value


@dataclass
class Cluster:
    """nodes: primaries first, then the replicas of the first ones."""

    nodes: list[Node]

    @property
    def address(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def owner(self, key: bytes) -> Node:
        """By equal shares, as they were dealt; not after anything has moved."""
        return self.nodes[slot_of(key) * PRIMARIES // SLOTS]

    def move(self, slot: int, source: Node, target: Node) -> None:
        """As redis-cli does it: the keys one by one, then the slot."""
        target("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in self.nodes[:PRIMARIES]:
            node("CLUSTER", "SETSLOT", slot, "NODE", target.id)


@contextmanager
def redis_cluster(folder: Path, replicas: int = 0) -> Iterator[Cluster]:
    """Running, all slots dealt to three primaries in order, the first ones with a replica."""
    nodes: list[Node] = []
    try:
        for number in range(PRIMARIES + replicas):
            (home := folder / str(number)).mkdir(parents=True)
            port, bus_port = free_port(), free_port()
            options = ["--port", port, "--cluster-port", bus_port, "--cluster-enabled", "yes", "--cluster-node-timeout", 1000]
            options += ["--bind", "127.0.0.1", "--dir", home, "--save", "", "--logfile", "log", "--repl-diskless-sync-delay", 0]
            process = subprocess.Popen([find_redis(), *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            nodes.append(Node(process, port, bus_port))
        for node in nodes:
            until(partial(node, "PING"))
        for number, node in enumerate(nodes[:PRIMARIES]):
            first, last = (-(-n * SLOTS // PRIMARIES) for n in (number, number + 1))
            node("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for node in nodes[1:]:
            nodes[0]("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        for node in nodes:
            until(partial(node.says, "CLUSTER", f"cluster_known_nodes:{len(nodes)}"))
            until(partial(node.says, "CLUSTER", "cluster_state:ok"))
        for primary, replica in zip(nodes, nodes[PRIMARIES:], strict=False):
            replica("CLUSTER", "REPLICATE", primary.id)
            until(partial(replica.says, "INFO", "master_link_status:up"))
        yield Cluster(nodes)
    finally:
        for node in nodes:
            node.process.kill()
            node.process.wait()


def until(true: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait for it; a connection that is refused is no yet."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if true():
                return
        except redis.ConnectionError:
            pass
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.05)
