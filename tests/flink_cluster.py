"""Servers of a portable Beam job as processes of this machine: workers' pool, job servers, and a Flink cluster."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

# What Flink's own scripts open of Java 17 for it.
OPENED = (
    "lang", "lang.reflect", "net", "io", "nio", "text", "time", "util", "util.concurrent", "util.concurrent.atomic",
    "util.concurrent.locks",
)  # fmt: skip
JAVA = [
    "java", "-Xmx400m", "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED),
]  # fmt: skip
# Restarts for long enough that a lost task manager is noticed and its work moved.
CONFIG = """
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc}
jobmanager.memory.process.size: 1g
rest.address: localhost
rest.bind-address: localhost
rest.port: {rest}
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: 2
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
heartbeat.interval: 1000
heartbeat.timeout: 5000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 20
restart-strategy.fixed-delay.delay: 1 s
io.tmp.dirs: {tmp}
"""


class Servers:
    """Processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str]) -> None:
        """Starts a process whose words go to a log."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self.folder, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Ends a process at once, and those that it started."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def start_pool(self) -> int:
        """Starts a pool that starts Python workers when asked to; returns its port."""
        port = free_port()
        module = "apache_beam.runners.worker.worker_pool_main"
        self.start("pool", [sys.executable, "-m", module, f"--service_port={port}"])
        wait_until(lambda: is_open(port), "the pool of workers")
        return port

    def start_python_job_server(self) -> int:
        """Starts Beam's own job server in Python; returns its port."""
        port = free_port()
        module = "apache_beam.runners.portability.local_job_service_main"
        self.start("jobs", [sys.executable, "-m", module, "--port", str(port)])
        wait_until(lambda: is_open(port), "the job server")
        return port

    def start_flink(self, flink: Path) -> int:
        """Starts a job manager, two task managers and Beam's job server for them; returns the job server's port."""
        rest = free_port()
        (self.folder / "conf").mkdir()
        (self.folder / "tmp").mkdir()
        config = CONFIG.format(rpc=free_port(), rest=rest, tmp=self.folder / "tmp")
        (self.folder / "conf/config.yaml").write_text(config)
        self.start_java(flink, "manager", "runtime.entrypoint.StandaloneSessionClusterEntrypoint")
        for name in ("tasks0", "tasks1"):
            self.start_task_manager(flink, name)
        wait_until(lambda: n_task_managers(rest) == 2, "two task managers")
        port = free_port()
        self.start("jobs", [
            "java", "-jar", str(flink / "job-server.jar"), "--flink-master", f"http://localhost:{rest}",
            "--artifacts-dir", str(self.folder / "artifacts"), "--job-host", "localhost", "--job-port", str(port),
            "--artifact-port", "0", "--expansion-port", "0",
        ])  # fmt: skip
        wait_until(lambda: is_open(port), "the job server")
        return port

    def start_task_manager(self, flink: Path, name: str) -> None:
        self.start_java(flink, name, "runtime.taskexecutor.TaskManagerRunner")

    def start_java(self, flink: Path, name: str, entry: str) -> None:
        classes = ["-cp", f"{flink / 'lib'}/*", f"org.apache.flink.{entry}"]
        self.start(name, [*JAVA, *classes, "--configDir", str(self.folder / "conf")])


def n_task_managers(rest: int) -> int:
    try:
        with urllib.request.urlopen(f"http://localhost:{rest}/overview", timeout=5) as answer:
            return json.load(answer)["taskmanagers"]
    except (urllib.error.URLError, OSError):
        return -1


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def wait_until(happened: Callable[[], bool], what: str, limit_s: float = 90.0) -> None:
    """Waits for something. Raises TimeoutError that names it."""
    end = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"expected {what} within {limit_s:.0f} s")
        time.sleep(0.05)
