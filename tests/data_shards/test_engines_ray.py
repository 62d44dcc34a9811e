"""The Ray engine, on clusters of this machine that last as long as a test."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from disturbed import double

from diptych.data.engines import make_engine
from diptych.errors import UsageError

HERE = Path(__file__).parent


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, cwd=HERE, check=False
    )
    assert done.returncode == 0, done.stderr
    # Ray says things on the standard output.
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=f"RAY_ADDRESS={address}: no Ray cluster answers there"):
        list(make_engine("ray").run(double, []))


@pytest.mark.slow
def test_random_kills(tmp_path: Path) -> None:
    counted = json.loads(run("disturbed.py", str(tmp_path), "6", "1", "ray"))
    assert (counted["driver"], counted["worker"]) == (3, 3)


PROGRAM = """
import json, os, sys
from pathlib import Path
import disturbed
from disturbed import die, double, fail
from diptych.data.engines import Task, make_engine
from diptych.errors import UsageError
import ray

def result(function, works):
    try:
        told = []
        engine = make_engine("ray", 2)
        tasks = (Task(f"task {i}", work, 2) for i, work in enumerate(works))
        found = sorted(engine.run(function, tasks, lambda *said: told.append(said)))
        assert sorted(told) == [(name, 2) for name, _ in found], told
        return [value for _, value in found]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

root = Path(sys.argv[1])
for name in "ab":
    (root / name).mkdir()
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
said = {
    "double": result(double, range(5)),
    "fail": result(fail, range(3, 5)),
    "die twice": result(die, [(root / "a", 2)]),
    "die": result(die, [(root / "b", 9)]),
    "still there": ray.is_initialized(),
}
ray.shutdown()
print()
print(json.dumps(said), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_results_errors_and_deaths(tmp_path: Path) -> None:
    said = json.loads(run("-c", PROGRAM, str(tmp_path)))
    assert said["double"] == [0, 2, 4, 6, 8]
    assert said["fail"].startswith("TaskError: in a worker process:\n")
    assert said["fail"].endswith("ValueError: three\n")
    assert said["die twice"] == ["2 deaths"]
    assert said["die"].startswith("DataError: task 0: its worker processes died 3 times: ")
    # A cluster that the caller has begun is the caller's to end.
    assert said["still there"]
