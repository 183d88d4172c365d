from ipaddress import IPv4Network

import pytest

from bench.link.network import MAX_RANKS, draw_network, owner_of, removal_commands, setup_commands

SUBNET = IPv4Network("10.200.7.0/24")
LARGEST_PID = 4_194_304


def lines(num_ranks: int) -> list[str]:
    return [" ".join(command) for command in setup_commands(draw_network(42, num_ranks, SUBNET), "500mbit")]


def test_two_ranks_share_one_cable_limited_at_both_ends():
    made = lines(2)
    assert "ip -n lg42-0 link add data type veth peer name data netns lg42-1" in made
    assert [line for line in made if "tbf" in line] == [
        f"tc -n lg42-{rank} qdisc add dev data root tbf rate 500mbit burst 256kb latency 100ms" for rank in (0, 1)
    ]
    assert not any("bridge" in line for line in made)


def test_more_ranks_meet_at_a_bridge_each_by_a_link_limited_at_both_ends():
    made = lines(3)
    assert sum("type bridge" in line for line in made) == 1
    limited = [line.split()[2] for line in made if "tbf" in line]
    assert limited == ["lg42-0", "lg42-1", "lg42-2", *["lg42-hub"] * 3]


def test_namespaces_are_made_before_all_else_and_removed_after_the_links():
    network = draw_network(42, 3, SUBNET)
    made = lines(3)
    assert made[:4] == [f"ip netns add lg42-{name}" for name in (0, 1, 2, "hub")]
    removed = [" ".join(command) for command in removal_commands(network)]
    assert removed[:3] == [f"ip link del lg42c{rank}" for rank in range(3)]
    assert removed[3:] == [f"ip netns del lg42-{name}" for name in (0, 1, 2, "hub")]


def test_addresses_of_ranks_are_their_own_and_of_one_network():
    places = draw_network(42, MAX_RANKS, SUBNET).places
    hosts = [host for place in places for host in (place.control_host, place.root_host, place.data_host)]
    assert len(set(hosts)) == 3 * MAX_RANKS
    for place in places:
        ends = {IPv4Network(f"{host}/30", strict=False) for host in (place.control_host, place.root_host)}
        assert len(ends) == 1
        assert ends.pop().subnet_of(SUBNET)


def test_names_of_links_are_short_enough_for_the_kernel():
    network = draw_network(LARGEST_PID, MAX_RANKS, SUBNET)
    assert all(len(place.root_link) <= 15 for place in network.places)


@pytest.mark.parametrize(
    ("name", "owner"), [("lg42-0", 42), ("lg42-hub", 42), ("lg42c1", 42), ("lgx-0", None), ("eth0", None)]
)
def test_names_tell_their_owner(name, owner):
    assert owner_of(name) == owner
