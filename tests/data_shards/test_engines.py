"""Engines: every task once, errors, and processes that die."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import disturbed
import pytest
from toy_card import toy_card, tree

from diptych.data.acquire.state import FetchFolder
from diptych.data.chunks import cut
from diptych.data.engines import Task, make_engine
from diptych.data.engines.local import AHEAD, LocalEngine
from diptych.data.engines.outcomes import TaskError
from diptych.data.prepare import prepare
from diptych.data.workspace import Workspace
from diptych.data.writing import ChunkJob, write_chunk
from diptych.errors import DataError, UsageError

HERE = Path(__file__).parent


def tasks(works: object) -> Iterator[Task]:
    return (Task(f"task {i}", work, 2) for i, work in enumerate(works))  # type: ignore[arg-type, var-annotated]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_once(workers: int) -> None:
    told: list[tuple[str, int]] = []
    done = list(LocalEngine(workers).run(disturbed.double, tasks(range(7)), lambda *said: told.append(said)))
    assert sorted(done) == [(f"task {i}", 2 * i) for i in range(7)]
    assert [said for said in sorted(told) if said[1] == 2] == [(f"task {i}", 2) for i in range(7)]
    assert list(LocalEngine(workers).run(disturbed.double, tasks([]))) == []


def test_one_task_needs_no_process() -> None:
    assert list(LocalEngine(8).run(lambda work, tell: os.getpid(), tasks([0]))) == [("task 0", os.getpid())]


def test_tasks_are_drawn_as_they_are_needed() -> None:
    drawn = 0

    def endless() -> Iterator[int]:
        nonlocal drawn
        while True:
            yield drawn
            drawn += 1

    before = set(disturbed.family(os.getpid()))  # of other tests
    running = LocalEngine(2).run(disturbed.double, tasks(endless()))
    for finished in range(1, 6):
        next(running)
        assert drawn <= finished + 2 + AHEAD
    running.close()  # type: ignore[attr-defined]
    assert set(disturbed.family(os.getpid())) <= before


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_task(workers: int) -> None:
    drawn: list[int] = []

    def noted() -> Iterator[int]:
        for i in range(100_000):
            drawn.append(i)
            yield i

    done: list[int] = []
    error = ValueError if workers == 1 else TaskError
    with pytest.raises(error, match="three") as caught:
        done.extend(result for _, result in LocalEngine(workers).run(disturbed.fail, tasks(noted())))
    assert sorted(done)[:3] == [0, 1, 2]
    assert len(drawn) < 100_000  # the other worker goes on until the error is known
    if workers == 2:
        assert 'raise ValueError("three")' in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_drawing_lets_the_drawn_ones_finish(workers: int) -> None:
    def broken() -> Iterator[int]:
        yield from range(4)
        raise OSError("the list ends here")

    done: list[int] = []
    with pytest.raises(OSError, match="the list ends here"):
        done.extend(result for _, result in LocalEngine(workers).run(disturbed.double, tasks(broken())))
    assert sorted(done) == [0, 2, 4, 6]


def test_what_workers_cannot_import_is_said() -> None:
    class Local:
        pass

    with pytest.raises(AttributeError, match=r"Can't (get|pickle) local object"):
        list(LocalEngine(2).run(disturbed.double, tasks([Local(), Local()])))


def test_a_task_survives_two_deaths(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    works = [(tmp_path / "a", 2), (tmp_path / "b", 0)]
    done = dict(LocalEngine(2).run(disturbed.die, tasks(works)))
    assert done == {"task 0": "2 deaths", "task 1": "0 deaths"}


def test_the_third_death_of_a_task_is_an_error(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    works = [(tmp_path / "a", 0), (tmp_path / "b", 9), (tmp_path / "c", 0)]
    with pytest.raises(DataError) as caught:
        list(LocalEngine(2).run(disturbed.die, tasks(works)))
    said = str(caught.value)
    assert said.startswith(
        "task 1: 3 worker processes died of it, the last one at 'second' "
        "(SIGKILL, as when memory runs out); what is finished stays: free memory, use fewer workers"
    )


@pytest.mark.slow
def test_a_task_that_hangs_is_given_to_another_process(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    works = [(tmp_path / "a", 1), (tmp_path / "b", 0)]
    done = dict(LocalEngine(2, silence=0.5).run(disturbed.hang, tasks(works)))
    assert done == {"task 0": "1 times", "task 1": "0 times"}


@pytest.mark.slow
def test_a_task_that_always_hangs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(
        DataError, match=r"task [01]: 3 .* the last one at 'first' \(without a word for 0.2 s\)"
    ):
        list(LocalEngine(2, silence=0.2).run(disturbed.hang, tasks([(tmp_path / "a", 9)] * 2)))
    assert len(list((tmp_path / "a").iterdir())) >= 3


@pytest.mark.slow
def test_workers_are_copies_of_one_process_with_what_they_need() -> None:
    before = set(disturbed.family(os.getpid()))
    with LocalEngine(2, ("colorsys", "no.such.module")) as engine:
        early = set(disturbed.family(os.getpid())) - before
        done = [result for _, result in engine.run(disturbed.origin_of, tasks(range(20)))]
    assert len(early) == 1  # it loads while its engine has nothing to do yet
    assert {parent for _, parent, _ in done} == early
    assert {loaded for _, _, loaded in done} == {("colorsys",)}
    assert set(disturbed.family(os.getpid())) <= before


def test_an_engine_with_one_worker_begins_nothing() -> None:
    before = set(disturbed.family(os.getpid()))
    with LocalEngine(1):
        assert set(disturbed.family(os.getpid())) <= before


@pytest.mark.slow
def test_the_death_of_the_origin_costs_only_time() -> None:
    """It takes the workers with it; the tasks are done all the same, by copies of the next one."""
    killed: set[int] = set()

    def kill_it(name: str, done: int) -> None:
        if len(killed) < 2:
            origins = [pid for pid in disturbed.children(os.getpid()) if disturbed.children(pid)]
            for origin in {*origins} - killed:
                killed.add(origin)
                os.kill(origin, signal.SIGKILL)

    running = LocalEngine(2).run(disturbed.slowly, tasks(range(12)), kill_it)
    assert sorted(result for _, result in running) == list(range(12))
    assert len(killed) == 2


def test_wrong_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown engine 'rya'; did you mean 'ray'"):
        make_engine("rya")
    with pytest.raises(UsageError, match="workers: expected at least 1, got 0"):
        make_engine("local", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=re.escape("needs the package ray: pip install 'diptych[ray]'")):
        make_engine("ray")


def test_one_worker_for_each_core_by_default() -> None:
    assert LocalEngine().workers == len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    card = disturbed.slow_card()
    prepare(card, None, tmp_path / "one", shard_size=8)
    progress: list[int] = []
    summary = prepare(
        card, None, tmp_path / "many", shard_size=8, workers=3, progress=lambda n, _: progress.append(n)
    )
    assert tree(tmp_path / "one") == tree(tmp_path / "many")
    # 120 samples and 18 that the card leaves out.
    assert progress[-1] == 138
    assert sorted(progress) == progress
    missing = sum(i % 11 == 0 or i // 4 == 5 for i in range(120))
    broken = sum(i % 13 == 0 and i % 11 != 0 and i // 4 != 5 for i in range(120))
    assert summary.problems == {
        "missing file": missing, "missing picture": 18, "unreadable picture": broken
    }  # fmt: skip
    assert summary.samples == 120 - missing - broken


@pytest.mark.slow
def test_a_chunk_without_a_sample_leaves_a_gap(tmp_path: Path) -> None:
    prepare(disturbed.slow_card(), None, tmp_path, shard_size=4)
    info = json.loads((tmp_path / "dataset.json").read_text())
    numbers = [int(shard["file"][5:11]) for shard in info["shards"]]
    assert numbers == [i for i in range(30) if i != 5]
    assert not (tmp_path / "slow-000005.tar").exists()


def test_what_an_earlier_run_left_alive_writes_nothing(tmp_path: Path) -> None:
    """A worker on another machine that has not noticed yet that its job is dead."""
    card = toy_card()

    def note(n: int, total: int | None) -> None:
        if n > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(card, None, tmp_path, shard_size=7, progress=note)
    job = ChunkJob(next(cut(card.convert(None, {}), 7)), tmp_path, "toy", "of an earlier run")
    with pytest.raises(DataError, match="another process has taken over the preparation"):
        write_chunk(job, lambda done, at: None)
    assert list(tmp_path.rglob("*.partial")) == []
    prepare(card, None, tmp_path, shard_size=7)
    with pytest.raises(DataError, match="must lie on a file system that all machines share"):
        write_chunk(job, lambda done, at: None)
    prepare(card, None, tmp_path.with_name("fresh"), shard_size=7)
    assert tree(tmp_path) == tree(tmp_path.with_name("fresh"))


def test_parts_of_another_version_are_made_again(tmp_path: Path) -> None:
    with Workspace(tmp_path, {"card": "toy"}) as work:
        for name in ("toy-000000.tar.parquet", "toy-000001.tar.parquet.x-1.partial"):
            (work.folder / name).write_bytes(b"?")
        assert work.load() == {}


INTERRUPTED = """
import os, signal, sys, time, disturbed
from pathlib import Path
from diptych.data.prepare import prepare
# Where the tests run in the background of a script, the shell has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def tell(n, total):
    if n > 12:
        os.write(1, b"go\\n")  # at once: an interrupted `print` may leave half a line behind
        time.sleep(0.5)  # so that a busy machine does not finish before the signal comes
try:
    prepare(disturbed.slow_card(), None, Path(sys.argv[1]), shard_size=4, workers=2, progress=tell)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(3)
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
        process_group=0,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        workers = disturbed.family(child.pid)
        # What a terminal does: everything in the group hears it.
        os.killpg(child.pid, signal.SIGINT)
        said, errors = child.communicate(timeout=60)
    assert (said.split()[-1], errors, child.returncode) == ("interrupted", "", 3)
    assert len(workers) >= 2  # the origin of the workers, and one of them at least
    assert all(map(disturbed.gone, workers))
    assert list((tmp_path / "out").rglob("*.partial")) == []
    summary = prepare(disturbed.slow_card(), None, tmp_path / "out", shard_size=4)
    assert summary.resumed > 0
    prepare(disturbed.slow_card(), None, tmp_path / "fresh", shard_size=4)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


FULL = """
import resource, sys
from pathlib import Path
from toy_card import toy_card
from diptych.data.prepare import prepare
from diptych.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    prepare(toy_card(), None, Path(sys.argv[1]), shard_size=7, workers=2)
except DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_under_workers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(out)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=HERE,
        check=True,
    )
    assert re.fullmatch(
        rf"cannot write {out}/toy-00000\d\.tar: File too large; the 0 finished shards stay: make room, "
        "then run the same command again\n",
        done.stdout,
    )
    assert done.stderr == ""
    assert not out.exists()


@pytest.mark.slow
def test_thirty_random_kills(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "disturbed.py", str(tmp_path), "30", str(time.time_ns() % 1000)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=HERE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["driver"] + counted["worker"] == 30, counted


@pytest.mark.parametrize("kind", [Workspace, FetchFolder])
def test_what_a_dead_worker_left_is_gone_at_the_end(
    tmp_path: Path, kind: type[Workspace | FetchFolder]
) -> None:
    identity = {"card": "toy", "name": "toy"}
    with kind(tmp_path, identity):
        (tmp_path / "toy-000000.tar.x-1.partial").write_bytes(b"?")
        (tmp_path / "mine.txt").write_bytes(b"?")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["mine.txt"]
