"""The review application in a thread of the test."""

import socket
import threading
from pathlib import Path

import uvicorn

from annotation_tools.review.server import make_app
from annotation_tools.review.session import ReviewOptions, open_review


class LocalServer:
    """The same application in a thread of the test: starts at once, cannot be killed."""

    def __init__(self, dataset: Path, token: str = "", findings: Path | None = None) -> None:
        self.dataset = dataset
        self.review = open_review(ReviewOptions(dataset=dataset, findings=findings))
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        app = make_app(self.review, token=token)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=60)
        self.review.store.close()
