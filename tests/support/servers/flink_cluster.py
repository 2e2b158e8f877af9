"""Servers of a portable Beam job as processes of this machine: workers' pool, job servers, and a Flink cluster."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.checkout import ROOT

# What Flink's own scripts open of Java 17 for it.
OPENED = (
    "lang",
    "lang.reflect",
    "net",
    "io",
    "nio",
    "text",
    "time",
    "util",
    "util.concurrent",
    "util.concurrent.atomic",
    "util.concurrent.locks",
)
QUICK_JAVA = ["java", "-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
JAVA = [
    *QUICK_JAVA,
    "-Dlog4j2.level=INFO",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED),
]
NOTHING: Mapping[str, str] = MappingProxyType({})
# A dead process is noticed since nothing answers at its port; every timeout is one that no busy machine misses.
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
heartbeat.timeout: 600000
pekko.startup-timeout: 600 s
pekko.ask.timeout: 600 s
pekko.lookup.timeout: 600 s
task.cancellation.timeout: 0
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 1000
restart-strategy.fixed-delay.delay: 1 s
io.tmp.dirs: {tmp}
"""


class Servers:
    """Processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[Any]] = {}

    def start(self, name: str, command: list[str], environment: Mapping[str, str] = NOTHING) -> None:
        """Starts a process whose words go to a log."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, **environment}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self.folder, start_new_session=True
            )

    def wait_until(self, happened: Callable[[], bool], what: str, limit_s: float = 600.0) -> None:
        """Waits for something while all processes live.

        Raises TimeoutError, and RuntimeError with the last words of a process that ended.
        """
        end = time.monotonic() + limit_s
        while not happened():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    words = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"expected {what}, but {name} ended with {process.returncode}: {words}")
            if time.monotonic() > end:
                raise TimeoutError(f"expected {what} within {limit_s:.0f} s")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """Ends a process at once, and those that it started."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def start_pool(self, held: Path | None = None) -> int:
        """Starts a pool that starts Python workers when asked to; returns its port.

        held: the first of its workers that begins to write is held in the middle of a shard; the file `held` in this
        folder then holds its process id.
        """
        port = free_port()
        module = "apache_beam.runners.worker.worker_pool_main"
        environment = {}
        if held is not None:
            (held / "sitecustomize.py").write_text("import tests.support.held_writer\n")
            found = [str(held), str(ROOT), os.environ.get("PYTHONPATH", "")]
            environment = {"PYTHONPATH": os.pathsep.join(filter(None, found)), "EMBODIMIX_HELD": str(held)}
        self.start("pool", [sys.executable, "-m", module, f"--service_port={port}"], environment)
        self.wait_until(lambda: is_open(port), "the pool of workers")
        return port

    def start_python_job_server(self) -> int:
        """Starts Beam's own job server in Python; returns its port."""
        port = free_port()
        module = "apache_beam.runners.portability.local_job_service_main"
        self.start("jobs", [sys.executable, "-m", module, "--port", str(port)])
        self.wait_until(lambda: is_open(port), "the job server")
        return port

    def start_flink(self, libraries: Path, job_server: Path) -> "Flink":
        """Starts a job manager, a task manager and Beam's job server for them.

        One task manager at a time: a pool knows its workers by numbers that each task manager counts from 1, and
        two that share it stop each other's.
        """
        rest, jobs = free_port(), free_port()
        (self.folder / "conf").mkdir()
        (self.folder / "tmp").mkdir()
        config = CONFIG.format(rpc=free_port(), rest=rest, tmp=self.folder / "tmp")
        (self.folder / "conf/config.yaml").write_text(config)
        flink = Flink(servers=self, libraries=libraries, rest=rest, jobs=jobs)
        flink.start_java("manager", "runtime.entrypoint.StandaloneSessionClusterEntrypoint")
        flink.start_task_manager()
        self.start(
            "jobs",
            [
                *QUICK_JAVA,
                "-jar",
                str(job_server),
                "--flink-master",
                f"http://localhost:{rest}",
                "--artifacts-dir",
                str(self.folder / "artifacts"),
                "--job-host",
                "localhost",
                "--job-port",
                str(jobs),
                "--artifact-port",
                "0",
                "--expansion-port",
                "0",
            ],
        )
        self.wait_until(lambda: flink.ask("overview").get("slots-available") == 2, "a task manager")
        self.wait_until(lambda: is_open(jobs), "the job server")
        return flink


@dataclass(frozen=True, kw_only=True)
class Flink:
    """A cluster on the loopback, by its ports. libraries: the folder of Flink's own jars."""

    servers: Servers
    libraries: Path
    rest: int
    jobs: int

    def start_task_manager(self) -> None:
        self.start_java("tasks", "runtime.taskexecutor.TaskManagerRunner")

    def start_java(self, name: str, entry: str) -> None:
        classes = ["-cp", f"{self.libraries}/*", f"org.apache.flink.{entry}"]
        self.servers.start(name, [*JAVA, *classes, "--configDir", str(self.servers.folder / "conf")])

    def ask(self, path: str) -> dict[str, Any]:
        """What the job manager answers; empty while it does not."""
        try:
            with urllib.request.urlopen(f"http://localhost:{self.rest}/{path}", timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError):
            return {}

    def failures(self) -> list[str]:
        """Why tasks of the newest job failed and were begun anew, the last one first."""
        newest = max(self.ask("jobs/overview")["jobs"], key=lambda job: job["start-time"])
        history = self.ask(f"jobs/{newest['jid']}/exceptions?maxExceptions=20")["exceptionHistory"]["entries"]
        return [entry["exceptionName"] for entry in history]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0
