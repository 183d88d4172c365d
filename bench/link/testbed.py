"""Makes the slow link on this machine, and removes it whatever happens."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from bench.link.network import Command, Network, draw_network, owner_of, removal_commands, setup_commands
from liger.errors import ConfigError

_COMMAND_LIMIT_S: Final = 20.0
_SUBNETS: Final = tuple(IPv4Network("10.128.0.0/9").subnets(new_prefix=24))
_ADDRESS: Final = re.compile(r"inet (\S+)")
_ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def slow_link(num_ranks: int, rate: str) -> Iterator[Network]:
    """Give a network with one place for each rank, joined at a rate; it is gone after the block.

    Args:
        num_ranks: At least 2.
        rate: Of every link between ranks, each way, as tc takes it, such as 500mbit.

    Raises:
        ConfigError: This user or machine cannot make it, or tc does not take the rate.
    """
    check_machine()
    network = draw_network(os.getpid(), num_ranks, _free_subnet())
    try:
        for command in setup_commands(network, rate):
            _run(command)
        yield network
    finally:
        with _signals_ignored():
            _try_all(removal_commands(network))


def check_machine() -> None:
    """Check that namespaces can be made here.

    Raises:
        ConfigError: They cannot; with the reason and the mend.
    """
    if missing := [name for name in ("ip", "tc") if shutil.which(name) is None]:
        raise ConfigError(f"{' and '.join(missing)} cannot be found: install iproute2")
    if os.geteuid() != 0:
        raise ConfigError("network namespaces and traffic control need root: run this as root (sudo)")


def remove_leftovers() -> list[str]:
    """Remove namespaces and links of runs whose process is gone, and return their names."""
    check_machine()
    links, namespaces = _names("-o", "link", "show", column=1), _names("netns", "list", column=0)
    dead_links = [name for name in links if _is_dead(owner_of(name))]
    dead_namespaces = [name for name in namespaces if _is_dead(owner_of(name))]
    commands: list[Command] = [("ip", "link", "del", name) for name in dead_links]
    _try_all([*commands, *(("ip", "netns", "del", name) for name in dead_namespaces)])
    return dead_links + dead_namespaces


def _names(*query: str, column: int) -> list[str]:
    lines = [line.split() for line in _run(("ip", *query)).splitlines()]
    return [words[column].rstrip(":").partition("@")[0] for words in lines if len(words) > column]


def _is_dead(pid: int | None) -> bool:
    return pid is not None and not Path(f"/proc/{pid}").exists()


def _free_subnet() -> IPv4Network:
    """Return a /24 that no interface of this machine is in; runs side by side begin at different ones."""
    found = _ADDRESS.findall(_run(("ip", "-o", "-4", "addr", "show")))
    used = [IPv4Network(address, strict=False) for address in found]
    first = os.getpid() % len(_SUBNETS)
    for subnet in (*_SUBNETS[first:], *_SUBNETS[:first]):
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise ConfigError("no part of 10.128.0.0/9 is free on this machine")


def _run(command: Command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_LIMIT_S, check=False)
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())[:300]
        raise ConfigError(f"the slow link cannot be made: `{' '.join(command)}` says: {reason}")
    return done.stdout


def _try_all(commands: Sequence[Command]) -> None:
    """Run every command; what is not there needs no removal."""
    for command in commands:
        subprocess.run(command, capture_output=True, timeout=_COMMAND_LIMIT_S, check=False)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let no signal cut the removal short: all is about to end anyway."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
