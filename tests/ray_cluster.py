"""A Ray cluster of two nodes on one machine, as a sweep finds it."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

# In a process of its own, which all others of the cluster descend from. It takes them down when its standard input
# ends, whatever becomes of the tests.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
cluster.add_node(**node)
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True)
class RayCluster:
    """A running cluster.

    Args:
        address: what ``hydra.launcher.ray.init.address`` is set to.
        environment: what a command that uses it runs with.
        process: the one that all others of the cluster descend from.
    """

    address: str
    environment: dict[str, str]
    process: psutil.Process

    def workers(self, name: str = "job") -> list[psutil.Process]:
        """The processes that run a task now; ``job 0`` is a sweep's first job."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                if process.cmdline()[0].startswith(f"ray::{name}"):
                    found.append(process)
            except (psutil.Error, IndexError):
                continue  # it has ended meanwhile
        return found


@contextmanager
def two_nodes() -> Iterator[RayCluster]:
    """Start a cluster of two nodes with a CPU each, and take it down again."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            "RAY_TMPDIR": folder,  # a short path: it holds sockets
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray keeps one in the home folder
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # workers are nicer than all else by default, and starve on a busy machine
        }
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:  # closes its standard input, and waits
            assert process.stdout
            address = next((line.split()[1] for line in process.stdout if line.startswith("address ")), None)
            assert address, "the Ray cluster did not start"
            yield RayCluster(address, environment, psutil.Process(process.pid))
