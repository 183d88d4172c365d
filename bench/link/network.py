"""The slow link's network as command lines of `ip` and `tc`, without running them.

Each rank has a network namespace with two interfaces: `data`, which leads to the other ranks at the rate asked for, and
`control`, which leads to the machine's own namespace at full speed. Two ranks share one virtual cable; more are joined
by a bridge in a namespace of its own, each by a link that is limited at both ends.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

MAX_RANKS: Final = 16
_NAME: Final = re.compile(r"lg(\d+)-\w+")
_LINK: Final = re.compile(r"lg(\d+)c\d+")
_DATA: Final = IPv4Network("198.18.0.0/24")  # reserved for benchmarks (RFC 2544); seen inside the namespaces alone
_BURST: Final = "256kb"
_LATENCY: Final = "100ms"

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank runs."""

    namespace: str
    control_host: str  # for the controller
    data_host: str  # for the other ranks
    root_link: str  # name of the control link's end in the machine's own namespace
    root_host: str  # and its address

    @property
    def prefix(self) -> Command:
        """What stands before a command that is to run there; it becomes that command."""
        return ("ip", "netns", "exec", self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """All namespaces of one run."""

    places: tuple[Place, ...]  # by rank
    hub: str  # namespace of the bridge, empty if there is none
    subnet: IPv4Network  # of all control links

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Names of all namespaces."""
        return (*(place.namespace for place in self.places), *([self.hub] if self.hub else []))


def draw_network(owner_pid: int, num_ranks: int, subnet: IPv4Network) -> Network:
    """Name the namespaces, links and addresses of a run.

    Args:
        owner_pid: The process they belong to; part of every name.
        num_ranks: At least 2, at most MAX_RANKS.
        subnet: A free /24 of the machine's own namespace.
    """
    assert 2 <= num_ranks <= MAX_RANKS, "checked before"
    places = tuple(_place(owner_pid, rank, subnet[0]) for rank in range(num_ranks))
    return Network(places=places, hub=f"lg{owner_pid}-hub" if num_ranks > 2 else "", subnet=subnet)


def _place(owner_pid: int, rank: int, base: IPv4Address) -> Place:
    return Place(
        namespace=f"lg{owner_pid}-{rank}",
        control_host=str(base + 4 * rank + 2),  # a /30 a rank: its second address
        data_host=str(_DATA[rank + 1]),
        root_link=f"lg{owner_pid}c{rank}",
        root_host=str(base + 4 * rank + 1),
    )


def setup_commands(network: Network, rate: str) -> list[Command]:
    """Return what makes a network.

    Args:
        network: What is to be made.
        rate: Of every data link, each way, as tc takes it.
    """
    commands: list[Command] = [("ip", "netns", "add", name) for name in network.namespaces]
    for place in network.places:
        commands += _control_link(place, network.subnet)
    commands += _bridge(network) if network.hub else _cable(*network.places)
    for place in network.places:
        commands += _inside(place, f"addr add {place.data_host}/{_DATA.prefixlen} dev data", "link set data up")
        commands.append(_limit(place.namespace, "data", rate))
    if network.hub:
        commands += [_limit(network.hub, f"port{rank}", rate) for rank in range(len(network.places))]
    return commands


def removal_commands(network: Network) -> list[Command]:
    """Return what removes a network; what is missing already does not matter to the others."""
    links: list[Command] = [("ip", "link", "del", place.root_link) for place in network.places]
    return links + [("ip", "netns", "del", name) for name in network.namespaces]


def owner_of(name: str) -> int | None:
    """Return the process that a namespace or link belongs to, None if it is none of ours."""
    found = _NAME.fullmatch(name) or _LINK.fullmatch(name)
    return int(found[1]) if found else None


def _control_link(place: Place, subnet: IPv4Network) -> list[Command]:
    """Return what makes a control link. Nothing else is routed, so that asking for names fails at once."""
    peer = ("peer", "name", "control", "netns", place.namespace)
    return [
        ("ip", "link", "add", place.root_link, "type", "veth", *peer),
        ("ip", "addr", "add", f"{place.root_host}/30", "dev", place.root_link),
        ("ip", "link", "set", place.root_link, "up"),
        *_inside(
            place,
            "link set lo up",
            f"addr add {place.control_host}/30 dev control",
            "link set control up",
            f"route add {subnet} via {place.root_host}",
        ),
    ]


def _cable(one: Place, other: Place) -> list[Command]:
    return _inside(one, f"link add data type veth peer name data netns {other.namespace}")


def _bridge(network: Network) -> list[Command]:
    hub = ("ip", "-n", network.hub, "link")
    commands: list[Command] = [(*hub, "add", "bridge", "type", "bridge"), (*hub, "set", "bridge", "up")]
    for rank, place in enumerate(network.places):
        port = f"port{rank}"
        commands += _inside(place, f"link add data type veth peer name {port} netns {network.hub}")
        commands += [(*hub, "set", port, "master", "bridge"), (*hub, "set", port, "up")]
    return commands


def _inside(place: Place, *lines: str) -> list[Command]:
    return [("ip", "-n", place.namespace, *line.split()) for line in lines]


def _limit(namespace: str, link: str, rate: str) -> Command:
    shape = ("root", "tbf", "rate", rate, "burst", _BURST, "latency", _LATENCY)
    return ("tc", "-n", namespace, "qdisc", "add", "dev", link, *shape)
