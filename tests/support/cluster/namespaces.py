"""A network namespace, a link to it that can be cut, and a node of a Ray cluster behind it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE, THERE = "10.213.7.1", "10.213.7.2"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Namespace:
    """A network namespace with one link, to this machine.

    Args:
        name: Of the namespace.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "there", "netns", name)
        ip("addr", "add", f"{HERE}/24", "dev", name)
        ip("link", "set", name, "up")
        ip("-n", name, "addr", "add", f"{THERE}/24", "dev", "there")
        ip("-n", name, "link", "set", "lo", "up")
        self.heal()

    def cut(self) -> None:
        ip("-n", self.name, "link", "set", "there", "down")

    def heal(self) -> None:
        ip("-n", self.name, "link", "set", "there", "up")
        ip("-n", self.name, "route", "add", "default", "via", HERE)

    def processes(self, actor: str) -> list[int]:
        """The processes of the actors of a class."""
        found = map(int, ip("netns", "pids", self.name).split())
        return [pid for pid in found if _command(pid).startswith(f"ray::{actor}")]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return ""


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace; the test is skipped where this process must not make one."""
    name = f"cir{os.getpid()}"
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip")
    try:
        made = Namespace(name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs network namespaces: {error.stderr.strip()}")
    try:
        yield made
    finally:
        ip("netns", "del", name)


@contextmanager
def node_behind(there: Namespace, address: str, resources: dict[str, int]) -> Iterator[None]:
    """A node in a namespace, which belongs to the cluster at an address."""
    command = ["ip", "netns", "exec", there.name, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    flags = [f"--address={address}", f"--node-ip-address={THERE}"]
    flags += [f"--{name.replace('_', '-')}={value}" for name, value in resources.items()]
    with subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        try:
            yield
        finally:
            started.terminate()
