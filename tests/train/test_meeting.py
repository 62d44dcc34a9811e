"""How the ranks of one start find each other in a store that has seen earlier ones."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, TCPStore

from diptych.errors import RunError
from diptych.train import meeting as module
from diptych.train.meeting import agree_prefix, meet


def all_agree(store, size):
    with ThreadPoolExecutor(size) as pool:
        ranks = [pool.submit(agree_prefix, store, rank, size, 20.0) for rank in reversed(range(size))]
        return {rank.result(timeout=30) for rank in ranks}


def test_every_start_has_a_word_of_its_own_whatever_its_size():
    store = HashStore()
    words = [all_agree(store, size) for size in (3, 3, 2, 4)]
    assert all(len(word) == 1 for word in words)
    assert len(set.union(*words)) == 4


def test_ranks_meet_in_the_store_of_the_launcher():
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    launched = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(server.port),
        "WORLD_SIZE": "2",
    }
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(meet, [{**launched, "RANK": str(rank)} for rank in (0, 1)])
    first.store().set("word", "from 0")
    assert second.store().get("word") == b"from 0"
    assert not server.check(["word"])


def test_one_process_and_other_launchers_have_no_store():
    assert meet({}) is None
    assert meet({"WORLD_SIZE": "2", "RANK": "0"}) is None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_start_is_waited_for_in_vain(rank, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    monkeypatch.setattr(module, "_connect", lambda *arguments: HashStore())
    monkeypatch.setattr(
        module, "agree_prefix", lambda store, rank, size: agree_prefix(store, rank, size, 0.1)
    )
    environment = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "29400",
        "WORLD_SIZE": "2",
        "RANK": str(rank),
    }
    with pytest.raises(RunError, match=rf"rank {rank} of 2: the other ranks do not start .*node1:29400"):
        meet(environment)
