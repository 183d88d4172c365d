import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from liger.cluster_state import GroupPhase, fetch_cluster
from liger.errors import ConfigError, UnavailableError
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster, RankSpec

SERVICES = Path(__file__).parent / "fake_services"


def group(name: str = "tiny", **settings) -> GroupSpec:
    return GroupSpec(model_folder=Path("/models/tiny"), model_name=name, **settings)


@pytest.fixture
def spec(tmp_path):
    def make(*groups: GroupSpec, **settings) -> ClusterSpec:
        environ = {"PYTHONPATH": str(SERVICES), "CHILD_PID_FILE": str(tmp_path / "child")}
        return ClusterSpec(
            groups=groups or (group(),),
            log_folder=tmp_path / "logs",
            environ=environ,
            **{"drain_limit_s": 5, **settings},
        )

    return make


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not yet asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(*pids: int) -> None:
    """Wait for the end of processes, children or not."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([descriptor], [], [], 30)
        os.close(descriptor)
        assert ended, f"process {pid} still runs"


async def test_a_cluster_serves_inside_its_block_and_is_gone_after_it(spec):
    states = []
    async with LocalCluster(spec(group("a", tp_size=2), group("b", copies=2)), states.append) as cluster:
        state = await fetch_cluster(cluster.controller)
        pids = [process.pid for process in cluster.processes.values()]
        assert set(cluster.processes) == {
            "controller", "gateway", "worker-a-0", "worker-a-1", "worker-b-1-0", "worker-b-2-0",
        }  # fmt: skip
        assert all(map(is_alive, pids))

    assert {(found.name, found.phase) for found in state.groups} == {
        (name, GroupPhase.SERVING) for name in ("a", "b-1", "b-2")
    }
    assert states[-1] == state
    assert not any(map(is_alive, pids))


async def test_services_are_stopped_gateway_first_controller_last(spec):
    cluster = LocalCluster(spec(group(tp_size=2)))
    ended = []

    async def note_end(name: str) -> None:
        await cluster.processes[name].wait()
        ended.append(name)

    await cluster.start()
    async with asyncio.TaskGroup() as tasks:
        for name in cluster.processes:
            tasks.create_task(note_end(name))
        await asyncio.sleep(0)
        await cluster.stop()
    assert ended[0] == "gateway"
    assert ended[-1] == "controller"


async def test_threads_and_options_reach_the_workers(spec):
    options = {"dtype": "bfloat16"}
    async with LocalCluster(spec(group(options=options), threads_per_worker=3)) as cluster:
        log = cluster.processes["worker-tiny-0"].log.read_text()
    assert "threads=3" in log
    assert "'--threads': '3'" in log
    assert "'--dtype': 'bfloat16'" in log


async def test_each_rank_has_its_own_command_prefix_and_flags(spec):
    ranks = tuple(
        RankSpec(prefix=("env", f"PLACE=house {number}"), options={"listen": f"127.0.0.{number}:0"})
        for number in (1, 2)
    )
    options = {"listen": "127.0.0.9:0", "dtype": "bfloat16"}
    async with LocalCluster(spec(group(tp_size=2, options=options, ranks=ranks))) as cluster:
        logs = [cluster.processes[f"worker-tiny-{number}"].log.read_text() for number in (0, 1)]
    for number, log in enumerate(logs, start=1):
        assert f"place=house {number}" in log
        assert f"'--listen': '127.0.0.{number}:0'" in log
        assert "'--dtype': 'bfloat16'" in log


async def test_a_group_with_stages_has_a_worker_for_each_rank_of_each_stage(spec):
    async with LocalCluster(spec(group(tp_size=2, pp_size=2))) as cluster:
        logs = [cluster.processes[f"worker-tiny-{rank}"].log.read_text() for rank in range(4)]
    assert all("'--tp-size': '2', '--pp-size': '2'" in log for log in logs)


def test_a_group_whose_described_ranks_are_too_few_is_refused():
    with pytest.raises(ConfigError, match="tiny has 4 ranks, but 1 are described"):
        group(tp_size=2, pp_size=2, ranks=(RankSpec(),))


def test_workers_share_the_cores_and_have_at_least_one_thread(spec, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert spec(group("a", tp_size=2), group("b")).threads() == 2
    assert spec(group("a", tp_size=9)).threads() == 1


async def test_a_refused_configuration_is_told_in_the_services_own_words(spec):
    with pytest.raises(ConfigError, match="worker-tiny-0 did not start: --tp-size must be at least 1"):
        await LocalCluster(spec(group(options={"fault": "refuse"}))).start()


async def test_a_process_that_dies_while_starting_is_told_with_the_end_of_its_log(spec):
    with pytest.raises(
        UnavailableError, match=r"(?s)worker-tiny-0 ended \(exit code 1\).*worker-tiny-0\.log.*out of luck"
    ):
        await LocalCluster(spec(group(options={"fault": "crash"}))).start()


async def test_a_process_that_dies_while_its_group_forms_is_told(spec):
    with pytest.raises(UnavailableError, match=r"(?s)worker-tiny-0 ended.*out of luck"):
        await LocalCluster(spec(group(options={"late-fault": "crash"}))).start()


async def test_a_process_that_dies_later_ends_the_wait(spec):
    async with LocalCluster(spec(group(tp_size=2))) as cluster:
        os.kill(cluster.processes["worker-tiny-1"].pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match=r"worker-tiny-1 ended \(signal 9\)"):
            await cluster.wait()


async def test_a_service_that_never_listens_ends_the_start(spec):
    cluster = LocalCluster(spec(group(options={"fault": "mute"}), start_limit_s=3))
    with pytest.raises(UnavailableError, match=r"(does not listen|does not serve) after 3 s"):
        await cluster.start()
    wait_until_gone(*(process.pid for process in cluster.processes.values()))


async def test_a_service_that_ignores_the_signal_is_killed_after_the_limit(spec, monkeypatch):
    monkeypatch.setattr("liger.local_cluster.cluster._KILL_MARGIN_S", 0.1)
    async with LocalCluster(spec(group(options={"fault": "deaf"}), drain_limit_s=0.1)) as cluster:
        process = cluster.processes["worker-tiny-0"]
    assert process.exit_code == -signal.SIGKILL


async def test_what_a_worker_started_ends_with_it(spec, tmp_path):
    async with LocalCluster(spec(group(options={"fault": "parent"}))) as cluster:
        child = int((tmp_path / "child").read_text())
        assert is_alive(child)
        assert cluster.gateway
    wait_until_gone(child)


async def test_a_talkative_service_blocks_nobody(spec):
    async with LocalCluster(spec(group(options={"late-fault": "talkative"}))) as cluster:
        assert cluster.gateway
    assert "x" * 200_000 in cluster.processes["worker-tiny-0"].log.read_text()


PARENT = """
import asyncio, sys
from pathlib import Path
from liger.local_cluster import ClusterSpec, GroupSpec, LocalCluster
async def main():
    groups = (GroupSpec(model_folder=Path("/models/tiny"), model_name="tiny"),)
    cluster = LocalCluster(ClusterSpec(groups=groups, log_folder=Path(sys.argv[1])))
    await cluster.start()
    print(*(process.pid for process in cluster.processes.values()), flush=True)
    await cluster.wait()
asyncio.run(main())
"""


def test_no_process_outlives_a_killed_parent(tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(SERVICES)}
    command = [sys.executable, "-P", "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(is_alive, pids))
        parent.kill()
    wait_until_gone(*pids)


def test_one_name_for_two_groups_is_refused(spec):
    with pytest.raises(ConfigError, match="tiny is given twice"):
        spec(group(), group())


@pytest.mark.parametrize("settings", [{"tp_size": 0}, {"pp_size": 0}, {"copies": 0}])
def test_counts_below_one_are_refused(settings):
    with pytest.raises(ConfigError, match="at least one worker and one copy"):
        group(**settings)


async def test_an_absent_controller_is_told_with_its_address():
    with pytest.raises(UnavailableError, match=r"no controller answers at 127\.0\.0\.1:9"):
        await fetch_cluster("127.0.0.1:9", timeout_s=5)
