"""Brings Apache Flink and Beam's job server for it into a folder: python flink_setup.py FOLDER.

EMBODIMIX_FLINK_JOB_SERVER names a job server's jar to use instead.
"""

import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

# The newest Flink of the newest line before 2.0 that Beam 2.77 publishes a job server for.
FLINK, LINE = "1.20.5", "1.20"
JOB_SERVER = "job-server.jar"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"


def main(folder: Path) -> int:
    """Fetches what is missing. Says so and stops where Maven Central, as reached from here, has no job server."""
    folder.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("EMBODIMIX_FLINK_JOB_SERVER")
    if given and not Path(given).is_file():
        print(f"flink: EMBODIMIX_FLINK_JOB_SERVER: expected a jar, found no file {given}", file=sys.stderr)
        return 2
    if not given and not (folder / JOB_SERVER).exists() and not fetch_job_server(folder):
        artifact = f"beam-runners-flink-{LINE}-job-server:{metadata.version('apache-beam')}"
        print(f"flink: Maven found no org.apache.beam:{artifact}; the tests on Flink will be skipped. ")
        print("flink: to run them: EMBODIMIX_FLINK_JOB_SERVER=/path/to/that.jar make test-flink")
        return 0
    if not (folder / "lib").exists():
        fetch_flink(folder)
    return 0


def fetch_job_server(folder: Path) -> bool:
    name = f"beam-runners-flink-{LINE}-job-server"
    version = metadata.version("apache-beam")
    copy = [
        "mvn",
        "-q",
        "-B",
        f"{PLUGIN}:copy",
        f"-Dartifact=org.apache.beam:{name}:{version}",
        "-Dtransitive=false",
        f"-DoutputDirectory={folder}",
        "-Dmdep.stripVersion=true",
    ]
    try:
        done = subprocess.run(copy, cwd=folder, stdout=subprocess.DEVNULL, timeout=600)
    except FileNotFoundError:
        return False
    if done.returncode == 0:
        (folder / f"{name}.jar").rename(folder / JOB_SERVER)
    return done.returncode == 0


def fetch_flink(folder: Path) -> None:
    """PyPI's package of Flink's libraries is its distribution without the scripts."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--dest", folder]
    subprocess.run([*pip, f"apache-flink-libraries=={FLINK}"], check=True)
    (package,) = folder.glob("apache_flink_libraries-*.tar.gz")
    with tarfile.open(package) as archive:
        for member in archive:
            if Path(member.name).parts[1:3] == ("deps", "lib") and member.isfile():
                member.name = f"unfinished/{Path(member.name).name}"
                archive.extract(member, folder, filter="data")
    package.unlink()
    (folder / "unfinished").rename(folder / "lib")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
