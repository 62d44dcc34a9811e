"""docs/examples/slurm.sh, with programs that only say how they were called in place of Slurm's."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "slurm.sh"
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'node7\\nnode9\\n'; else echo "scontrol $*"; fi
"""
SRUN = """#!/bin/bash
echo "threads $OMP_NUM_THREADS"
printf '%s\\n' "$@"
"""
PATIENT = """#!/bin/bash
trap 'exit 143' TERM
echo ready
for i in $(seq 200); do sleep 0.1; done
"""


@pytest.fixture
def cluster(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)

    write("scontrol", SCONTROL)
    job = {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7,9]",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
    }
    return write, {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_a_torchrun_on_each_node_meets_on_the_first(cluster):
    write, environment = cluster
    write("srun", SRUN)
    command = ["bash", str(SCRIPT), "my.yaml", "name=two words"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "threads 8",
        "torchrun",
        "--nnodes=2",
        "--nproc-per-node=4",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        "--rdzv-id=42",
        "--rdzv-endpoint=node7:29500",
        "-m",
        "diptych",
        "train",
        "my.yaml",
        "name=two words",
    ]


def test_a_failure_is_the_status_of_the_job(cluster):
    write, environment = cluster
    write("srun", "#!/bin/bash\nexit 3\n")
    done = subprocess.run(["bash", str(SCRIPT), "x"], env=environment, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (3, b"")


def test_the_job_is_put_back_when_its_time_is_over(cluster):
    write, environment = cluster
    write("srun", PATIENT)
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "x"], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)  # until the script waits
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    assert process.returncode == 143
    assert output == "scontrol requeue 42\n"
