"""Where the ranks of one start meet in torchrun's key-value store.

torchrun keeps its store when it starts ranks again, and torch.distributed would find the addresses of the
dead ones there. So the ranks of each start agree on a fresh prefix first. (The number of restarts will not
do: a machine that joins later counts from 0.)
"""

import functools
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from diptych.errors import RunError
from diptych.train.files import first_line

PATIENCE = 600.0
"""Seconds that ranks wait for each other to start: imports over a slow network may take minutes."""


@dataclass(frozen=True)
class Meeting:
    """What a rank needs to meet the others of its start."""

    host: str
    port: int
    rank: int
    size: int
    prefix: str

    def store(self, timeout: timedelta = timedelta(seconds=PATIENCE)) -> Store:
        """Connect anew: a connection that waits for a key serves nobody else meanwhile."""
        return PrefixStore(self.prefix, _connect(self.host, self.port, timeout))


@functools.cache
def meeting() -> Meeting | None:
    """Return where the ranks of this start meet; None for one process, or without torchrun's own store.

    Raises:
        RunError: the others did not start in time.
    """
    return meet(os.environ)


def meet(environment: Mapping[str, str]) -> Meeting | None:
    """Do what `meeting` does, by the variables that torchrun sets."""
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1 or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    rank = int(environment["RANK"])
    try:
        store = _connect(host, port, timedelta(seconds=PATIENCE))
        prefix = agree_prefix(PrefixStore("diptych", store), rank, size)
    except RuntimeError as error:
        raise RunError(
            f"rank {rank} of {size}: the other ranks do not start ({first_line(error)}); look at the "
            f"messages of the other machines, and whether they reach {host}:{port}"
        ) from error
    return Meeting(host, port, rank, size, f"diptych/{prefix}")


def agree_prefix(store: Store, rank: int, size: int, patience: float = PATIENCE) -> str:
    """Return a word that all ranks of this start have, and no start before had.

    Every rank asks under a name of its own making, so that no answer is of an earlier start; rank 0 answers
    until all have noted that they got the answer.

    Raises:
        RuntimeError: a rank did not come within `patience` seconds.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"ask/{rank}", own)
        store.wait([f"answer/{own}"], timedelta(seconds=patience))
        prefix = store.get(f"answer/{own}").decode()
        store.set(f"{prefix}/got/{rank}", "1")
        return prefix
    deadline = time.monotonic() + patience
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            if store.check([f"ask/{other}"]):
                store.set(f"answer/{store.get(f'ask/{other}').decode()}", own)
            if store.check([f"{own}/got/{other}"]):
                missing.discard(other)
        if missing and time.monotonic() > deadline:
            raise RuntimeError(f"nothing of rank {min(missing)} within {patience:g} seconds")
        time.sleep(0.02)
    return own


def _connect(host: str, port: int, timeout: timedelta) -> Store:
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
