import json

from liger.v1 import controller_pb2


def cluster() -> controller_pb2.GetClusterResponse:
    ranks = [
        controller_pb2.RankStatus(
            worker_id=f"w{rank}",
            address=f"127.0.0.1:{rank}",
            rank=rank,
            device="cpu",
            weight_bytes=1 << 20,
            kv_bytes=1 << 21,
        )
        for rank in range(2)
    ]
    serving = controller_pb2.GroupStatus(
        name="chat", model="smollm2", state=controller_pb2.GroupStatus.STATE_SERVING, epoch=3,
        strategy="interleaved", depth=3, ranks=ranks, world_size=2,
        num_waiting=4, num_running=5, num_blocks=100, num_used_blocks=7,
        num_in_flight=2, prediction_error=0.034, hidden_share=0.71,
    )  # fmt: skip
    forming = controller_pb2.GroupStatus(
        name="other",
        state=controller_pb2.GroupStatus.STATE_FORMING,
        world_size=2,
        progress=0.25,
        detail="loading [weights]",
    )
    return controller_pb2.GetClusterResponse(leader_term=1, groups=[serving, forming], gateway_ids=["g"])


def test_status_shows_groups_and_ranks(liger, controller):
    controller.cluster = cluster()

    shown = liger("status").stdout

    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    told = "chat smollm2 serving 2/2 3 interleaved (depth 3, 2 in flight) 4 5 7/100 ±3.4% 71%"
    assert " ".join(rows["chat"]) == told
    assert rows["w1"] == ["w1", "chat", "1", "127.0.0.1:1", "cpu", "1", "MiB", "2", "MiB"]
    assert "forming 25%" in shown
    assert rows["other"][-4:] == ["–", "–", "loading", "[weights]"]
    assert "loading [weights]" in shown
    assert "1 gateway(s)" in shown


def test_status_is_json_when_asked(liger, controller):
    controller.cluster = cluster()

    found = json.loads(liger("status", "--json").stdout)

    assert [group["phase"] for group in found["groups"]] == ["serving", "forming"]
    assert [group["num_in_flight"] for group in found["groups"]] == [2, 0]
    assert [group["hidden_share"] for group in found["groups"]] == [0.71, None]


def test_status_of_an_empty_cluster_says_what_is_missing(liger):
    assert liger("status").stdout == "no worker has registered yet\n"


def test_a_phase_that_a_newer_controller_has_is_unknown(liger, controller):
    controller.cluster.groups.add(name="chat", state=99)
    assert json.loads(liger("status", "--json").stdout)["groups"][0]["phase"] == "unknown"


def test_drain_names_the_group_and_its_limit(liger, controller):
    done = liger("drain", "chat", "--timeout", "2")

    assert done.stdout == "chat: 3 finished, 1 given up\n"
    assert (controller.asked[0].group, controller.asked[0].timeout_s) == ("chat", 2.0)


def test_an_absent_controller_is_named(liger):
    for command in (("status",), ("drain", "chat")):
        done = liger(*command, "--controller", "127.0.0.1:9")
        assert done.exit_code == 1
        assert "no controller answers at 127.0.0.1:9" in done.stderr
