import json
import re

import pytest

from liger.v1 import controller_pb2, types_pb2


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

    rows = {line.split()[0]: line.split() for line in reversed(shown.splitlines()) if line}  # the first that begin so
    told = "chat smollm2 serving 2/2 3 interleaved (depth 3, 2 in flight) 4 5 7/100 ±3.4% 71%"
    assert " ".join(rows["chat"]) == told
    assert rows["w1"] == ["w1", "chat", "1", "127.0.0.1:1", "cpu", "1", "MiB", "2", "MiB"]
    assert "forming 25%" in shown
    assert rows["other"][-4:] == ["–", "–", "loading", "[weights]"]
    assert "loading [weights]" in shown
    assert "1 gateway(s)" in shown


def busy() -> controller_pb2.GetClusterResponse:
    found = cluster()
    encode, decode = types_pb2.BATCH_KIND_ENCODE, types_pb2.BATCH_KIND_DECODE
    mixes = [{"batches": [decode], "share": 0.6}, {"batches": [encode, decode], "share": 0.3}]
    shares = [
        {"task": types_pb2.TASK_GENERATE, "weight": 3, "share": 0.8},
        {"task": types_pb2.TASK_EMBED, "weight": 1, "share": 0.2, "num_waiting": 12},
    ]
    found.groups[0].MergeFrom(
        controller_pb2.GroupStatus(
            num_cached_blocks=43, prefix_query_tokens=4096, prefix_hit_tokens=1024, num_preemptions=1,
            num_waiting_tokens=1234, window_mixes=mixes, task_shares=shares,
            decode_choice={"num_batches": 1, "merged_ns": 45_000_000, "split_ns": 52_400_000},
        )
    )  # fmt: skip
    return found


def loads_of(shown: str) -> dict[str, str]:
    """Return what is said of the first group, by name; columns are two blanks apart."""
    rows = [re.split(r"  +", line.strip()) for line in re.split(r"group +load", shown)[1].splitlines()]
    return {row[-2]: row[-1] for row in rows if len(row) > 1}


def test_status_says_what_each_group_does(liger, controller):
    controller.cluster = busy()

    assert loads_of(liger("status").stdout) == {
        "KV cache": "7 blocks used, 43 cached, of 100 (2.0 MiB of 4.0 MiB on 2 ranks)",
        "prefixes": "25% found (1,024 of 4,096 prompt tokens)",
        "waiting": "4 sequences and inputs, 1,234 tokens",
        "preempted": "1 sequence",
        "windows": "decode 60%, encode+decode 30%",
        "decode": "1 batch (45 ms; two would take 52 ms)",
        "tasks": "generate 80% (weight 3 is 75%); embed 20% (weight 1 is 25%, 12 wait)",
    }


def test_status_says_nothing_of_what_did_not_happen(liger, controller):
    controller.cluster = cluster()
    assert loads_of(liger("status").stdout).keys() == {"KV cache", "waiting"}
    del controller.cluster.groups[0]
    assert not re.search(r"group +load", liger("status").stdout)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (
            {"num_batches": 2, "merged_ns": 9_000_000, "split_ns": 8_000_000},
            "2 batches (8.0 ms; one would take 9.0 ms)",
        ),
        ({"num_batches": 1}, "1 batch"),
    ],
)
def test_a_decode_choice_is_told_with_what_the_other_way_takes(liger, controller, choice, told):
    controller.cluster = cluster()
    controller.cluster.groups[0].MergeFrom(controller_pb2.GroupStatus(decode_choice=choice))
    assert loads_of(liger("status").stdout)["decode"] == told


def test_a_large_cache_is_told_in_gib(liger, controller):
    controller.cluster = cluster()
    for rank in controller.cluster.groups[0].ranks:
        rank.kv_bytes = 5 << 30
    assert "(0.70 GiB of 10.00 GiB on 2 ranks)" in loads_of(liger("status").stdout)["KV cache"]


def test_tasks_without_weights_are_told_without_what_they_are_worth(liger, controller):
    controller.cluster = cluster()
    share = {"task": types_pb2.TASK_SCORE, "share": 1.0}
    controller.cluster.groups[0].MergeFrom(controller_pb2.GroupStatus(task_shares=[share]))
    assert loads_of(liger("status").stdout)["tasks"] == "score 100% (weight 0)"


def test_the_mix_of_work_is_json_when_asked(liger, controller):
    controller.cluster = busy()

    found = json.loads(liger("status", "--json").stdout)["groups"][0]

    assert (found["num_used_blocks"], found["num_cached_blocks"], found["num_blocks"]) == (7, 43, 100)
    assert (found["prefix_query_tokens"], found["prefix_hit_tokens"], found["num_preemptions"]) == (4096, 1024, 1)
    assert found["num_waiting_tokens"] == 1234
    assert found["window_mixes"][1] == {"batches": ["encode", "decode"], "share": 0.3}
    assert found["decode_choice"] == {"num_batches": 1, "merged_ns": 45_000_000, "split_ns": 52_400_000}
    assert found["task_shares"][1] == {"task": "embed", "weight": 1.0, "share": 0.2, "num_waiting": 12}


def test_kinds_and_tasks_that_a_newer_controller_has_are_left_out(liger, controller):
    controller.cluster = busy()
    group = controller.cluster.groups[0]
    group.window_mixes[0].batches.append(99)
    group.task_shares[0].task = 99

    found = json.loads(liger("status", "--json").stdout)["groups"][0]

    assert [mix["batches"] for mix in found["window_mixes"]] == [["encode", "decode"]]
    assert [share["task"] for share in found["task_shares"]] == ["embed"]


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
