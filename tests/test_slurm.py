"""A grid as jobs of Slurm: Debian's, as a cluster of one machine (`make test-slurm`).

It has a GPU that is none, so that jobs ask for one and wait for each other; nothing is measured.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from arcnn.files import PROFILES, ROOT, hold, read_json, read_yaml
from arcnn.workshop.run.reproduce import CLUSTERS, main

DAEMONS = ["munged", "slurmctld", "slurmd"]
PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in (*DAEMONS, "srun") if shutil.which(name, path=PATH) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install slurm-wlm munge"
    ),
]
PERIOD, LAST = 5, 40  # of checkpoints, and iterations


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def wait_until(happened: Callable[[], object], what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def slurm(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def configuration(folder: Path, host: str) -> str:
    """slurm.conf: no control groups, which containers refuse, and no accounts, which would take a
    database; what is preempted goes back to the queue."""
    places = f"""
        AuthInfo=socket={folder}/munge.socket
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd.pid
        SlurmctldLogFile={folder}/slurmctld.log
        SlurmdLogFile={folder}/slurmd.log"""
    user = getpass.getuser()
    settings = f"""
        ClusterName=test
        SlurmctldHost={host}(127.0.0.1)
        SlurmctldPort={free_port()}
        SlurmdPort={free_port()}
        SlurmUser={user}
        SlurmdUser={user}
        AuthType=auth/munge
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        MpiDefault=none
        JobAcctGatherType=jobacct_gather/none
        AccountingStorageType=accounting_storage/none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core_Memory
        SchedulerParameters=bf_interval=1
        KillWait=5
        PreemptType=preempt/partition_prio
        PreemptMode=REQUEUE
        GresTypes=gpu
        # As large as the jobs ask for, whatever this machine has.
        SlurmdParameters=config_overrides
        NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=100000 Gres=gpu:1
        PartitionName=usual Nodes={host} Default=YES PriorityTier=1
        PartitionName=urgent Nodes={host} PriorityTier=2"""
    return "\n".join(line.strip() for line in (places + settings).splitlines() if line.strip())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A cluster of this machine alone; gives the folder of its files."""
    host = socket.gethostname().partition(".")[0]
    with (
        TemporaryDirectory(prefix="slurm-") as name,  # short: a socket's path has 107 bytes at most
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(name)
        (folder / "slurm.conf").write_text(configuration(folder, host) + "\n")
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        # The plugin's jobs start `srun` without SLURM_CONF: they are for clusters that are set up.
        srun = folder / "bin" / "srun"
        srun.parent.mkdir()
        real = shutil.which("srun")
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
        srun.chmod(0o755)
        patch.setenv("PATH", f"{srun.parent}:{PATH}")
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        munge = [f"--key-file={folder}/munge.key"]
        munge += [f"--{key}-file={folder}/munged.{key}" for key in ("pid", "log", "seed")]
        munge += [f"--socket={folder}/munge.socket", "--num-threads=2", "--force"]
        started = []
        try:
            for command in (["munged", "-F", *munge], ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
                with (folder / f"{command[0]}.out").open("w") as said:
                    started.append(subprocess.Popen(command, stdout=said, stderr=said))
                if command[0] == "munged":
                    wait_until((folder / "munge.socket").exists, "munged answers", 20)
            wait_until(lambda: "idle" in sinfo(), f"an idle machine ({folder})", 60)
            yield folder
            slurm("scancel", "--user", getpass.getuser())
            wait_until(lambda: not slurm("squeue", "--noheader"), "an empty queue", 60)
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(30)


def sinfo() -> str:
    run = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, check=False)
    return run.stdout


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a run: the smoke profile as a grid of two models, one of them options that
    have a name, and two seeds."""
    probs = {"ROI_MASK_HEAD": {"NAME": "ARCNNMaskHead"}, "ARCNN": {"INPUT": "probs"}}
    (tmp_path / "models").mkdir()
    probs = yaml.safe_dump({"VERSION": 2, "MODEL": probs})
    (tmp_path / "models" / "arcnn_probs.yaml").write_text(probs)
    monkeypatch.setenv("ARCNN_MODELS", str(tmp_path / "models"))
    profiles = tmp_path / "profiles"
    shutil.copytree(PROFILES, profiles)
    steps = ["SOLVER.MAX_ITER", LAST, "SOLVER.CHECKPOINT_PERIOD", PERIOD]
    content = {"base": "smoke", "models": ["arcnn", "arcnn_probs"], "seeds": [0, 1]}
    content |= {"options": steps, "compare_with": ""}
    (profiles / "grid.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("arcnn.workshop.run.profiles.PROFILES", profiles)
    # The kit's own file, for a cluster without accounts, and for people without patience.
    own = read_yaml((CLUSTERS / "slurm.yaml").read_text())
    own |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 2}
    own |= {"latency-wait": 5, "retries": 0}
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(own))
    places = ["--results-root", str(tmp_path / "results with a space")]
    return [
        "--profile",
        "grid",
        "--executor",
        str(tmp_path / "slurm.yaml"),
        "--cores",
        "1",
        *places,
    ]


@contextlib.contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A run: checks beforehand in this process, Snakemake in another, which ends with the block."""
    runs = []

    def execute(_: str, command: list[str]) -> None:
        with log.open("w") as said:
            runs.append(subprocess.Popen(command, stdout=said, stderr=said))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arcnn.workshop.run.reproduce.os.execv", execute)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        main(arguments)
    (run,) = runs
    try:
        yield run
    finally:
        run.kill()  # if it is not over: its jobs end with the cluster
        run.wait(30)


def times(folder: Path) -> dict[Path, float]:
    return {file: file.stat().st_mtime for file in folder.rglob("*") if file.is_file()}


def test_a_grid_outlives_preemption_and_a_failed_run(
    cluster: Path, grid: list[str], tmp_path: Path
) -> None:
    results = tmp_path / "results with a space" / "grid"
    runs = results / "runs" / "tabletop"
    log = tmp_path / "log"

    def training() -> list[Path]:
        begun = [file.parent for file in runs.glob("*/*/train/model_[0-9]*.pth")]
        return [folder for folder in begun if not (folder / "model_final.pth").exists()]

    taken = hold(runs / "arcnn_probs" / "seed1" / "train" / ".lock", "trains")
    with taken, running([*grid, "--target", "start"], log) as run:
        wait_until(training, f"a checkpoint ({log})")
        (preempted,) = training()  # the other trainings wait for the GPU
        urgent = ["--partition=urgent", "--gpus=1", "--mem=1000", f"--output={tmp_path}/urgent"]
        slurm("sbatch", *urgent, "--wrap=echo $CUDA_VISIBLE_DEVICES")
        wait_until((tmp_path / "urgent").exists, "the urgent job runs")
        assert not (preempted / "model_final.pth").exists()
        assert run.wait(1200) == 1, log.read_text()  # one run failed
    first, *_, second = read_json(preempted / "sessions.json", "")
    assert first["first"] == 0 and second["first"] > 0 and second["first"] % PERIOD == 0
    evaluated = {str(file.parent.relative_to(runs)) for file in runs.glob("*/*/metrics.json")}
    assert evaluated == {"arcnn/seed0", "arcnn/seed1", "arcnn_probs/seed0"}, log.read_text()

    before = times(runs / "arcnn") | times(runs / "arcnn_probs" / "seed0")
    with running(grid, log) as run:
        assert run.wait(1800) == 0, log.read_text()
    assert (results / "table1.md").is_file() and (runs / "arcnn_probs/seed1/metrics.json").is_file()
    after = times(runs)
    assert {file: after[file] for file in before} == before  # only what had failed
