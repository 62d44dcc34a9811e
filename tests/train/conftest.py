import pytest
import train_toy

from diptych.systems import SYSTEMS
from diptych.tasks import TASKS


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Put the toy system and tasks into the tables for the duration of a test."""
    systems, tasks = dict(SYSTEMS), dict(TASKS)
    train_toy.register(systems, tasks)
    for name in ("toy",):
        monkeypatch.setitem(SYSTEMS, name, systems[name])
    for name in ("toy_pairs", "toy_fused"):
        monkeypatch.setitem(TASKS, name, tasks[name])


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return train_toy.write_dataset(tmp_path_factory.mktemp("data") / "toy")
