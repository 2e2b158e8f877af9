"""Running a graph of Beam to its end, with the worker's own words where it fails."""

import re

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.contract.errors import EmbodimixError, FailedWork
from pipelines.jobs.cancelling import allow_writers, cancel_writers
from pipelines.jobs.local_workers import report_failures_once, settled
from pipelines.storage.mirror import with_urls

# One episode is read and encoded in this time on any disk; what takes longer is left to the process's end.
_CANCEL_S = 60.0


def run_graph(label: str, transform: beam.PTransform, options: PipelineOptions, output: str, kept: str) -> None:
    """Runs a graph that writes to `output`. Raises FailedWork with the worker's own words when it fails.

    After a failure, or Ctrl-C, no thread of this process writes any more. kept: the finished work that stays, for the
    message.
    """
    allow_writers(output)
    report_failures_once()
    try:
        with settled(), beam.Pipeline(options=options) as pipeline:
            _ = pipeline | label >> transform
    except BaseException as error:
        # Beam reports the first failure while other threads still write; a restart would now share the folder
        # with them.
        cancel_writers(output, _CANCEL_S)
        if not isinstance(error, (RuntimeError, OSError, EmbodimixError)):
            raise
        message = worker_message(with_urls(str(error)))
        raise FailedWork(f"{message}. Finished {kept} are kept; run the same command again") from error


def worker_message(text: str) -> str:
    """Returns the last error that a worker reported, without Beam's traceback around it."""
    # Beam wraps a worker's error in the tracebacks of all stages around it; the last error is the cause.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Full|Work|Exception|Rejected)\b.*:", line)]
    message = errors[-1] if errors else (lines[-1] if lines else "the job failed without a message")
    message = re.sub(r"\s*\[while running .*", "", message)
    return re.sub(r"^[\w.]+\.(FailedWork|DiskFull|UsageError): ", "", message).rstrip(".")
