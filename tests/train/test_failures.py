"""What a rank says when it or another fails, with a store and processes that stand for torchrun's."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from torch.distributed import HashStore

from diptych.errors import ConfigError, DataError
from diptych.train import failures
from diptych.train.failures import Process, Watch, watched
from diptych.train.ranks import ElsewhereError
from diptych.train.signals import StoppedError
from diptych.train.together import agreed

BROKEN = "[pair.cc:537] gloo: Connection closed by peer"
ALONE = {}
LAUNCHED = {"WORLD_SIZE": "2", "RANK": "1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(failures, "PERIOD", 0.02)


def watch(rank, store, grace=60.0):
    return Watch(rank, 2, store, grace=grace)


def test_the_first_to_fail_speaks_and_the_others_do_not():
    store = HashStore()
    with watch(0, store) as first, watch(1, store) as second:
        assert second.explain(DataError("shard 3 is damaged")) == "rank 1 of 2: shard 3 is damaged"
        assert first.explain(RuntimeError(BROKEN)) is None
        assert first.explain(ElsewhereError("shard 3 is damaged")) is None
        assert first.explain(DataError("shard 3 is damaged")) is None


def test_words_that_name_the_rank_or_belong_to_all_stay_as_they_are():
    for error, words in (
        (agreed(DataError("the disk is full")), "the disk is full"),
        (DataError("rank 0 of 2: the loss is not finite"), "rank 0 of 2: the loss is not finite"),
        (KeyError("name"), "rank 1 of 2: KeyError: 'name'"),
    ):
        with watch(1, HashStore()) as alone:
            assert alone.explain(error) == words


def test_a_broken_collective_is_found_behind_other_errors():
    error = DataError("the checkpoint could not be written")
    error.__cause__ = RuntimeError(BROKEN)
    store = HashStore()
    store.add("claim", 1)
    with watch(0, store) as survivor:
        assert survivor.explain(error) is None


def stand_in(store, rank=1):
    """Start a process that is rank 1 for the others."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    here = failures.socket.gethostname()
    facts = Process(rank, process.pid, failures._started(process.pid), here, failures._place(here))
    store.set(f"who/{rank}", failures.json.dumps(failures.asdict(facts)))
    return process


@pytest.fixture
def store():
    return HashStore()


@pytest.fixture
def other(store):
    process = stand_in(store)
    yield process
    process.kill()
    process.stdin.close()
    process.wait()


def wait_for_end(process):
    """Wait until a process has ended, and leave it uncollected as its parent may."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_killed_rank_is_named_by_a_survivor_whose_collective_broke(store, other, monkeypatch):
    monkeypatch.setattr(failures, "PERIOD", 5.0)  # the thread does not look: it is the failing call that does
    with watch(0, store) as survivor:
        other.kill()
        wait_for_end(other)
        line = survivor.explain(RuntimeError(BROKEN))
        assert line.startswith(f"rank 1 of 2 (pid {other.pid} on ")
        assert "is gone: killed, out of memory?" in line


def test_a_killed_rank_is_named_by_the_thread_while_the_rank_computes(store, other, capfd):
    with watch(0, store):
        other.kill()
        deadline = time.monotonic() + 20
        while not store.check(["claim"]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert f"error: rank 1 of 2 (pid {other.pid} on " in capfd.readouterr().err


def test_the_kernel_is_asked_whether_memory_ran_out(store, other, monkeypatch):
    kills = iter([3, 4])
    monkeypatch.setattr(failures, "_oom_kills", lambda: next(kills))
    monkeypatch.setattr(failures, "PERIOD", 5.0)
    with watch(0, store) as survivor:
        other.kill()
        wait_for_end(other)
        assert "is gone: killed because memory ran out; lower data.loader" in survivor.explain(
            RuntimeError(BROKEN)
        )


def test_a_rank_that_left_by_itself_is_not_mourned(store, other, monkeypatch):
    store.set("left/1", "1")
    with watch(0, store, grace=0.2) as survivor:
        other.kill()
        wait_for_end(other)
        assert survivor._lost() is None
        # Of a rank elsewhere that says nothing the name is all there is.
        line = survivor.explain(RuntimeError(BROKEN))
    assert line.startswith("rank 1 of 2")
    assert line.endswith(f"does not answer ({BROKEN}); look at that machine")


def test_a_number_given_to_a_new_process_is_not_the_old_one(other):
    me = failures._started(os.getpid())
    assert not Process(0, os.getpid(), me, "", "").vanished()
    assert Process(0, os.getpid(), me + "0", "", "").vanished()


def hang(store_path, grace):
    from torch.distributed import FileStore

    failures.PERIOD = 0.02
    store = FileStore(store_path, 2)
    with Watch(0, 2, store, grace=grace):
        signal.pause()  # as in a collective that waits for the dead


@pytest.mark.slow
def test_a_rank_that_hangs_after_another_failed_is_ended(tmp_path):
    from torch.distributed import FileStore

    store = FileStore(str(tmp_path / "store"), 2)
    process = multiprocessing.get_context("forkserver").Process(
        target=hang, args=(str(tmp_path / "store"), 0.1)
    )
    process.start()
    try:
        store.add("claim", 1)
        process.join(30)
        assert process.exitcode == 1
    finally:
        process.kill()
        process.join()


class Gone:
    """A store whose machine has failed."""

    def __getattr__(self, name):
        def fail(*arguments):
            raise RuntimeError("Connection reset by peer")

        return fail


@pytest.mark.parametrize("store", [None, Gone()])
def test_without_a_store_every_rank_speaks_for_itself(store):
    with watch(0, store, grace=0.1) as alone:
        assert alone.explain(DataError("no room")) == "rank 0 of 2: no room"
        assert alone.explain(RuntimeError(BROKEN)).startswith("rank 1 of 2 does not answer (")


def test_one_process_raises_what_it_raises():
    with pytest.raises(DataError, match=r"^no room$"), watched(ALONE):
        raise DataError("no room")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DataError("no room"), 1, "error: rank 1 of 2: no room\n"),
        (ConfigError("two\nlines"), 2, "error: rank 1 of 2: two\nerror: lines\n"),
        (StoppedError("stopped on request", 15), 143, ""),
    ],
)
def test_a_rank_ends_with_its_status_and_its_line(error, status, words, capsys):
    with pytest.raises(SystemExit) as end, watched(LAUNCHED):
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err == words


def test_rank_0_says_that_all_stopped():
    with pytest.raises(StoppedError), watched({**LAUNCHED, "RANK": "0"}):
        raise StoppedError("stopped on request", 2)


def test_a_defect_keeps_its_traceback(capsys):
    with pytest.raises(SystemExit), watched(LAUNCHED):
        raise KeyError("name")
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("error: rank 1 of 2: KeyError: 'name'\n")
