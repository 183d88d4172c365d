from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bench.link import measure
from bench.link.clusters import SILENT, Contest, Contestant, cluster_spec, contestant_names
from bench.link.figures import Answer
from bench.link.measure import Measurement
from bench.link.network import draw_network
from bench.link.progress import num_steps
from bench.link.runs import SATURATION
from bench.link.settings import parse_orders
from bench.link.work import Load
from liger.errors import UnavailableError

NETWORK = draw_network(42, 2, IPv4Network("10.200.7.0/24"))


class FakeLoad:
    """A cluster that answers one call after another, each as slow as the last."""

    def __init__(self, call_s: float, error: str = "") -> None:
        self.call_s = call_s
        self.error = error
        self.seen: list[object] = []

    async def keep_busy(self, calls, num_outstanding):
        self.seen.append(tuple(calls))
        return [self._answer(0.0, (place + 1) * self.call_s) for place in range(len(calls))]

    async def send_at(self, calls, arrivals_s):
        self.seen.append((tuple(calls), tuple(arrivals_s)))
        return [self._answer(at_s, at_s + self.call_s) for at_s in arrivals_s]

    def _answer(self, scheduled_s, ended_s):
        return Answer(scheduled_s=scheduled_s, ended_s=ended_s, num_tokens=10, error=self.error)


@pytest.fixture
def contest(tmp_path):
    def make(*flags: str) -> Contest:
        settings = parse_orders(["--seconds", "1", "--rounds", "2", *flags]).settings
        return Contest(settings=settings, network=NETWORK, load=Load.DISCRIMINATIVE, logs=tmp_path)

    return make


@pytest.fixture
def run_with(monkeypatch):
    """Return a function that measures fake clusters."""

    async def run(contest: Contest, loads: dict[str, FakeLoad]):
        @asynccontextmanager
        async def fakes(*_):
            yield [
                Contestant(name=name, group="g", controller="127.0.0.1:9", load=load) for name, load in loads.items()
            ]

        async def no_lanes(*_):
            return None

        monkeypatch.setattr(measure, "make_model", lambda *_: Path("model"))
        monkeypatch.setattr(measure, "running_contestants", fakes)
        monkeypatch.setattr(measure, "read_lanes", no_lanes)
        steps: list[str] = []
        runs = await Measurement(contest, steps.append, lambda run: None).run()
        return runs, steps

    return run


async def test_every_strategy_gets_the_same_calls_at_the_same_times(contest, run_with):
    loads = {"tensor": FakeLoad(0.1), "pipeline": FakeLoad(0.09), "interleaved": FakeLoad(0.08), SILENT: FakeLoad(0.05)}
    runs, _ = await run_with(contest(), loads)
    assert loads["tensor"].seen == loads["pipeline"].seen == loads["interleaved"].seen
    assert len(loads[SILENT].seen) == 3  # warm-up and two rounds, no arrivals
    assert len([run for run in runs if run.label == SATURATION]) == 8
    assert len([run for run in runs if run.strategy == "interleaved" and run.rate is not None]) == 16


async def test_the_first_in_a_round_changes_so_that_drift_favours_none(contest, run_with):
    two = {"tensor": FakeLoad(0.1), "interleaved": FakeLoad(0.1)}
    runs, _ = await run_with(contest("--strategies", "tensor,interleaved"), {**two, SILENT: FakeLoad(0.1)})
    firsts = [
        next(run.strategy for run in runs if run.round == number and run.label == SATURATION) for number in (1, 2)
    ]
    assert firsts == ["tensor", "interleaved"]


async def test_rates_are_shares_of_what_tensor_sustains(contest, run_with):
    runs, _ = await run_with(contest("--strategies", "tensor"), {"tensor": FakeLoad(0.1)})
    assert [run.rate for run in runs if run.rate and run.round == 1] == pytest.approx([1.0, 5.0, 8.0, 9.5, 10.0, 12.0])


async def test_a_cluster_that_answers_nothing_ends_the_measurement(contest, run_with):
    with pytest.raises(UnavailableError, match="tensor answers no discriminative call: gone"):
        await run_with(contest("--strategies", "tensor"), {"tensor": FakeLoad(0.1, error="gone")})


async def test_the_steps_foretold_are_those_that_are_told(contest, run_with):
    names = contestant_names(contest().settings)
    _, steps = await run_with(contest(), {name: FakeLoad(0.1) for name in names})
    told_by_starts = len(names)  # which the fakes leave out
    assert num_steps(contest().settings) == 2 * (len(steps) + told_by_starts)


def test_ranks_run_in_their_namespaces_and_exchange_over_the_data_link(contest):
    spec = cluster_spec(contest(), "interleaved", Path("/models/m"))
    workers = list(spec.workers("10.200.7.1:5"))
    for worker, place in zip(workers, NETWORK.places, strict=True):
        flags = dict(zip(worker.flags[::2], worker.flags[1::2], strict=True))
        assert worker.prefix == ("ip", "netns", "exec", place.namespace)
        assert flags["--listen"] == f"{place.control_host}:0"
        assert flags["--exchange-host"] == place.data_host
        assert (flags["--threads"], flags["--profile-tag"]) == ("1", "500mbit")
    assert spec.controller_listen == f"{NETWORK.places[0].root_host}:0"
    assert spec.controller_options["strategy"] == "interleaved"


@pytest.mark.parametrize(
    ("name", "sizes", "strategy"),
    [("tensor", (2, 1), "tensor"), ("pipeline", (1, 2), "pipeline"), (SILENT, (2, 1), "tensor")],
)
def test_each_contestant_has_its_layout(contest, name, sizes, strategy):
    spec = cluster_spec(contest(), name, Path("/models/m"))
    group = spec.groups[0]
    assert (group.tp_size, group.pp_size) == sizes
    assert spec.controller_options["strategy"] == strategy
    assert (group.options.get("communicator") == "null") is (name == SILENT)
