"""Preparations that are killed again and again; also run as a program that does it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from toy_card import png, toy_card, tree

from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.engines import Tell
from diptych.data.prepare import prepare
from diptych.data.raw.refs import MediumError
from diptych.data.sample import Sample

SAMPLES = 120
SHARD_SIZE = 4


@dataclass(frozen=True)
class SlowRef:
    """A picture that takes its time; every eleventh is not there, every thirteenth is broken."""

    number: int
    pids: Path | None = None
    size: int | None = None

    def read(self) -> bytes:
        if self.pids is not None:
            with self.pids.open("a") as file:
                file.write(f"{os.getpid()}\n")
        time.sleep(0.004)
        if self.number % 11 == 0:
            raise MediumError("missing file", f"picture {self.number}")
        return b"broken" if self.number % 13 == 0 else png(self.number)


def slow_card(pids: Path | None = None) -> Card:
    def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Unread | LeftOut]:
        for i in range(SAMPLES):
            # Chunk 5 has no picture that can be stored: a gap in the numbers.
            number = 11 if i // SHARD_SIZE == 5 else i
            yield Unread(Sample(f"s{i}", {}, (f"text {i}",), meta={"i": i}), {"png": SlowRef(number, pids)})
            if i % 7 == 0:
                yield LeftOut("missing picture", f"x{i}", f"picture {i}")

    return toy_card(name="slow", convert=convert, splits={})


def double(work: int, tell: Tell) -> int:
    tell(1, f"key {work}")
    return 2 * work


def fail(work: int, tell: Tell) -> int:
    if work == 3:
        raise ValueError("three")
    return work


def die(work: tuple[Path, int], tell: Tell) -> str:
    """Kill the process that does it as often as `work` says, before its second sample."""
    folder, deaths = work
    tell(0, "first")
    tell(1, "second")
    died = len(list(folder.iterdir()))
    if died < deaths:
        (folder / str(died)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{died} deaths"


def slowly(work: int, tell: Tell) -> int:
    tell(0, "first")
    time.sleep(0.05)
    return work


def hang(work: tuple[Path, int], tell: Tell) -> str:
    """Say nothing for ever as often as `work` says; once it ends at once."""
    folder, hangs = work
    tell(0, "first")
    hung = len(list(folder.iterdir()))
    if hung < hangs:
        (folder / str(hung)).touch()
        time.sleep(600)
    return f"{hung} times"


def origin_of(work: int, tell: Tell) -> tuple[int, int, tuple[str, ...]]:
    """Who did it, what that was copied from, and which of two rare modules were there by then."""
    return os.getpid(), os.getppid(), tuple(name for name in ("colorsys", "sndhdr") if name in sys.modules)


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def family(pid: int) -> list[int]:
    """The processes that a process has begun, and those that they have."""
    return [found for child in children(pid) for found in (child, *family(child))]


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _drive(folder: Path, telling: int) -> None:
    def tell(done: int, total: int | None) -> None:
        os.write(telling, b".")

    status = 1
    try:
        prepare(slow_card(), None, folder, shard_size=SHARD_SIZE, workers=2, progress=tell)
        status = 0
    finally:
        os._exit(status)


def disturbed(out: Path, kills: int, seed: int) -> dict[str, int]:
    """Prepare with two workers and kill the driver or a worker at random moments, `kills` times in all.

    The dataset must be the undisturbed one whenever it is finished; then another one is begun.
    """
    reference = out / "reference"
    prepare(slow_card(), None, reference, shard_size=SHARD_SIZE)
    expected, chance = tree(reference), random.Random(seed)
    done = {"driver": 0, "worker": 0, "finished": 0, "failed": 0}
    seen: set[int] = set()
    while done["driver"] + done["worker"] < kills:
        folder = out / str(done["finished"])
        hearing, telling = os.pipe()
        driver = os.fork()
        if driver == 0:
            os.close(hearing)
            _drive(folder, telling)
        os.close(telling)
        while True:
            # Progress and not time says when: the machine may be busy.
            if len(b"".join(os.read(hearing, 1) for _ in range(chance.randrange(1, 20)))) == 0:
                break
            workers = family(driver)
            seen.update(workers)
            if not workers and chance.random() < 0.9:
                continue  # it counts what an earlier run has finished
            time.sleep(chance.random() * 0.02)
            victim = chance.choice([driver, *workers])
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it was on its way out
            done["driver" if victim == driver else "worker"] += 1
            if victim == driver or done["driver"] + done["worker"] >= kills:
                break
        os.close(hearing)
        status = os.waitpid(driver, 0)[1]
        if status == 0:
            assert tree(folder) == expected, folder
            done["finished"] += 1
        elif os.WIFEXITED(status):
            done["failed"] += 1
    folder = out / str(done["finished"])
    prepare(slow_card(), None, folder, shard_size=SHARD_SIZE, workers=2)
    assert tree(folder) == expected
    for _ in range(1000):
        if all(map(gone, seen)):
            break
        time.sleep(0.02)
    assert all(map(gone, seen)), "workers outlive their driver"
    return done


ON_RAY = """
import sys
from pathlib import Path
import disturbed
from diptych.data.prepare import prepare
def tell(n, total):
    print(n, flush=True)
prepare(disturbed.slow_card(Path(sys.argv[2])), None, Path(sys.argv[1]), shard_size=4, engine="ray",
        workers=2, progress=tell)
"""


def disturbed_on_ray(out: Path, kills: int, seed: int) -> dict[str, int]:
    """Prepare on a Ray cluster of two cores; kill driver and workers in turn, `kills` times in all."""
    import ray

    reference, folder, pids = out / "reference", out / "ray", out / "pids"
    prepare(slow_card(), None, reference, shard_size=SHARD_SIZE)
    here = Path.cwd()
    # Names that the driver gives are relative, and Ray's processes have another working folder.
    os.chdir(out)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    chance, done = random.Random(seed), {"driver": 0, "worker": 0, "runs": 0}
    status = None
    while status != 0:
        done["runs"] += 1
        with subprocess.Popen(
            [sys.executable, "-c", ON_RAY, os.path.relpath(folder, here), str(pids)],
            stdout=subprocess.PIPE,
            env=environment,
            cwd=here,
        ) as driver:
            assert driver.stdout is not None
            while any(driver.stdout.readline() for _ in range(chance.randrange(1, 6))):
                if done["driver"] + done["worker"] >= kills:
                    continue
                if done["driver"] < done["worker"]:
                    driver.kill()
                    done["driver"] += 1
                    break
                worker = int(pids.read_text().split()[-1])
                if not gone(worker):
                    os.kill(worker, signal.SIGKILL)
                    done["worker"] += 1
        status = driver.returncode
        assert status in (0, -signal.SIGKILL), status
    ray.shutdown()
    assert tree(folder) == tree(reference)
    return done


if __name__ == "__main__":
    # Imported by its name: worker processes must find what is in tasks.
    import disturbed as program

    disturb = program.disturbed_on_ray if sys.argv[4:] == ["ray"] else program.disturbed
    print(json.dumps(disturb(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
