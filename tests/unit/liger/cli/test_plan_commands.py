import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from controller.codec.plans import from_explained, from_profile_view, from_timeline
from liger.profile import ExchangeChoice
from liger.v1 import controller_pb2, types_pb2
from liger.views import ProfileView
from tests.support.plans import ALL_REDUCE, MLP, small_profile, span, two_batches


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def serving(controller):
    for name, model in (("bert-1", "bert"), ("bert-2", "bert"), ("chat", "smollm2")):
        controller.cluster.groups.add(name=name, model=model, strategy="interleaved", depth=3)
    controller.plan = from_explained("bert-1", two_batches())
    controller.profile = from_profile_view("bert-1", small_profile())
    controller.timeline = from_timeline("bert-1", two_batches().spans)
    return controller


def test_plan_draws_the_lanes_and_says_what_they_come_to(liger, serving, folder):
    done = liger("plan", "--model", "bert", "--tokens", "256,128", "--depth", "2")

    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "group bert-1, strategy interleaved, cost table 3"
    assert lines[2].startswith("compute        A====")
    assert "makespan 20.00 ms, serial (one after another) 28.00 ms: 1.40×" in lines
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["B"] == ["B", "encode", "128", "20.00", "ms", "28.00", "ms", "56.00", "ms"]
    ET.fromstring((folder / "liger-plan.svg").read_text(encoding="utf-8"))
    assert "liger-plan.svg" in done.stderr


def test_plan_asks_for_the_batches_together_and_for_each_kind_alone(liger, serving):
    liger("plan", "--group", "chat", "--tokens", "16, 4,4", "--kinds", "prefill,decode,decode", "--context", "64")

    together, *alone = serving.asked
    asked = [(batch.kind, batch.num_tokens, batch.context) for batch in together.batches]
    prefill, decode = types_pb2.BATCH_KIND_PREFILL, types_pb2.BATCH_KIND_DECODE
    assert asked == [(prefill, 16, 64), (decode, 4, 64), (decode, 4, 64)]
    assert (together.group, together.depth) == ("chat", 0)
    assert [(len(each.batches), each.batches[0].num_tokens, each.depth) for each in alone] == [(1, 16, 1), (1, 4, 1)]


def test_one_kind_is_meant_for_all_batches_and_none_is_left_to_the_controller(liger, serving):
    liger("plan", "--model", "bert", "--tokens", "1,2", "--kinds", "encode", "--context", "9")
    liger("plan", "--model", "bert", "--tokens", "1,2")
    encode = types_pb2.BATCH_KIND_ENCODE
    assert [(batch.kind, batch.context) for batch in serving.asked[0].batches] == [(encode, 0), (encode, 0)]
    assert [batch.kind for batch in serving.asked[-3].batches] == [0, 0]


def test_plan_is_json_when_asked_and_its_picture_goes_where_it_is_told(liger, serving, folder):
    done = liger("plan", "--model", "bert", "--tokens", "256,128", "--json", "--svg", "other.svg")
    found = json.loads(done.stdout)
    assert found["plan"]["finish_ns"] == [14_000_000, 20_000_000]
    assert found["plan"]["spans"][0]["lane"] == "compute"
    assert found["account"]["hidden_share"] == 1.0
    assert (folder / "other.svg").exists()


@pytest.mark.parametrize("tokens", ["", "many", "0", "-1", "1,,2", "1.5", "5000000000", "²"])
def test_what_is_no_number_of_tokens_is_refused_before_anyone_is_asked(liger, serving, tokens):
    done = liger("plan", "--model", "bert", f"--tokens={tokens}")
    assert done.exit_code == 2
    assert "is no number of tokens" in done.stderr
    assert serving.asked == []


@pytest.mark.parametrize("kinds", ["ride", "encode,encode,encode"])
def test_kinds_that_do_not_fit_are_refused(liger, serving, kinds):
    assert liger("plan", "--model", "bert", "--tokens", "1,2", "--kinds", kinds).exit_code == 2
    assert serving.asked == []


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (("--model", "gpt"), "there is no model 'gpt'; there are: bert-1 of model bert, bert-2 of model bert"),
        (("--group", "nine"), "there is no group 'nine'"),
        (("--group", "chat", "--model", "bert"), "there is no group 'chat' of model 'bert'"),
        ((), "name one of the groups"),
    ],
)
@pytest.mark.parametrize("command", [("plan", "--tokens", "1"), ("timeline",), ("profile",)])
def test_a_group_that_is_not_there_is_named_beside_those_that_are(liger, serving, command, named, said):
    done = liger(*command, *named)
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.parametrize("command", [("plan", "--tokens", "1"), ("timeline",), ("profile",)])
def test_what_is_away_is_named(liger, controller, command):
    assert "no worker has registered yet" in liger(*command).stderr
    done = liger(*command, "--controller", "127.0.0.1:9")
    assert done.exit_code == 1
    assert "no controller answers at 127.0.0.1:9" in done.stderr


def test_a_group_without_durations_says_so(liger, serving):
    serving.plan = controller_pb2.ExplainPlanResponse(group="bert-1")
    assert "no durations to plan with" in liger("plan", "--model", "bert", "--tokens", "1").stderr


def test_a_picture_that_cannot_be_written_is_one_line(liger, serving):
    done = liger("plan", "--model", "bert", "--tokens", "256,128", "--svg", "nowhere/plan.svg")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: cannot write nowhere/plan.svg: No such file or directory")


def test_an_answer_of_a_newer_controller_is_refused_in_one_line(liger, serving):
    serving.plan.spans[0].segment = 99
    done = liger("plan", "--model", "bert", "--tokens", "1")
    assert done.exit_code == 1
    assert "use one version everywhere" in done.stderr


def test_timeline_writes_a_trace_and_says_how_much_was_hidden(liger, serving, folder):
    done = liger("timeline", "--group", "bert-2", "--last", "500ms", "--out", "trace.json")

    assert done.exit_code == 0
    assert (serving.asked[0].group, serving.asked[0].last_s) == ("bert-2", 0.5)
    assert len(json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]) == 7 + 6
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert rows["0"] == ["0", "20.0", "ms", "100%", "40%", "100%"]
    assert "7 segments of group bert-2: 100% of the hideable communication hidden" in done.stdout


def test_timeline_sums_up_as_json(liger, serving):
    serving.timeline = from_timeline("chat", [span(1, MLP, 0, 10), span(1, ALL_REDUCE, 10, 20)])
    found = json.loads(liger("timeline", "--model", "smollm2", "--json").stdout)
    assert (found["num_spans"], found["hidden_share"], found["ranks"]["0"]["compute_ns"]) == (2, 0.0, 10_000_000)


def test_a_timeline_of_nothing_writes_nothing(liger, serving, folder):
    serving.timeline = controller_pb2.GetTimelineResponse(group="chat")
    done = liger("timeline", "--model", "smollm2")
    assert done.exit_code == 1
    assert "send requests" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("last", ["", "soon", "0s", "-1s", "2h", "nan", "inf"])
def test_what_is_no_time_is_refused_before_anyone_is_asked(liger, serving, last):
    assert liger("timeline", "--model", "bert", f"--last={last}").exit_code == 2
    assert serving.asked == []


@pytest.mark.parametrize(("last", "last_s"), [("2s", 2.0), ("500ms", 0.5), ("1min", 60.0), ("1.5", 1.5), (".5 s", 0.5)])
def test_times_may_be_written_in_several_ways(liger, serving, last, last_s):
    liger("timeline", "--model", "bert", "--last", last)
    assert serving.asked[0].last_s == last_s


def test_profile_shows_durations_contention_and_corrections(liger, serving, folder):
    done = liger("profile", "--model", "bert")

    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "tiny float32 2 ranks"
    for row in (
        "milliseconds of a segment, by tokens 1 128 256",
        "encode mlp 3 6",
        "decode attention, 512 behind 0.5",
        "milliseconds of an exchange, by tokens of 4 KiB 128 256",
        "all-reduce 2 4",
        "mlp of 128 tokens 1.25 / 1.50",
        "all-reduce 1.100 40",
        "error of predicted durations (median): 3.4%",
    ):
        assert row in lines
    ET.fromstring((folder / "liger-profile.svg").read_text(encoding="utf-8"))


def test_profile_is_json_when_asked(liger, serving):
    found = json.loads(liger("profile", "--model", "bert", "--json").stdout)
    assert found["table"]["segments"][0] == {
        "batch": "encode",
        "segment": "mlp",
        "num_tokens": 128,
        "context": 0,
        "duration_ns": 3_000_000,
        "held_ns": 0,
    }
    assert found["corrections"][0]["batch"] is None


def test_a_group_without_a_profile_says_so_and_draws_nothing(liger, serving, folder):
    serving.profile = from_profile_view("chat", ProfileView())
    done = liger("profile", "--model", "smollm2")
    assert "group chat has no profile" in done.stdout
    assert list(folder.iterdir()) == []


def test_a_fresh_profile_is_asked_for_before_it_is_shown(liger, serving):
    for group in serving.cluster.groups:
        group.state = controller_pb2.GroupStatus.STATE_SERVING
    done = liger("profile", "--group", "bert-2", "--fresh", "--timeout", "5")
    assert done.exit_code == 0
    renewed, shown = serving.asked
    assert (renewed.group, renewed.timeout_s) == ("bert-2", 5.0)
    assert isinstance(shown, controller_pb2.GetProfileRequest)
    assert "finishing what is in flight" in done.stderr
    assert "given up" not in done.stderr


def test_requests_that_a_fresh_profile_gave_up_are_told_of(liger, serving):
    for group in serving.cluster.groups:
        group.state = controller_pb2.GroupStatus.STATE_SERVING
    serving.num_abandoned = 2
    assert "2 requests were given up" in liger("profile", "--group", "chat", "--fresh").stderr


def test_a_profile_that_is_not_to_be_fresh_renews_nothing(liger, serving):
    liger("profile", "--model", "bert")
    assert [type(each) for each in serving.asked] == [controller_pb2.GetProfileRequest]


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf"])
def test_a_time_that_cannot_be_renews_nothing(liger, serving, timeout):
    assert liger("profile", "--model", "bert", "--fresh", f"--timeout={timeout}").exit_code != 0
    assert serving.asked == []


def test_ways_to_exchange_are_shown_with_a_star_at_what_is_taken(liger, serving):
    view = small_profile()
    choices = [
        ExchangeChoice(
            num_tokens=64,
            is_beside_compute=beside,
            communicator=name,
            duration_ns=duration_ns,
            delay_ns=500_000 if beside else 0,
            is_chosen=is_chosen,
        )
        for beside, name, duration_ns, is_chosen in (
            (False, "nccl", 1_000_000, True),
            (False, "copy-engine", 2_000_000, False),
            (True, "nccl", 4_000_000, False),
            (True, "copy-engine", 3_000_000, True),
        )
    ]
    view = replace(view, table=replace(view.table, exchange_choices=tuple(choices)))
    serving.profile = from_profile_view("bert-1", view)
    lines = [" ".join(line.split()) for line in liger("profile", "--model", "bert").stdout.splitlines()]
    assert "nccl, alone 1*" in lines
    assert "copy-engine, alone 2" in lines
    assert "nccl, beside compute + its delay 4 + 0.5" in lines
    assert "copy-engine, beside compute + its delay 3 + 0.5*" in lines
