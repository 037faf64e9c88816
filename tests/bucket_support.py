"""A bucket of Google Cloud Storage on this machine.

The server is gcp-storage-emulator's, with four things added: it can refuse, it
moves objects, as gcsfs asks for, and it tells their generation and obeys a
condition on it, as TensorStore relies on.
"""

import contextlib
import functools
import http.server
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
import training_support

REASON = "pip install 'aeent-jax[gcs]' gcp-storage-emulator brings it"
# gcsfs, as it is imported, would begin to ask by gRPC what kind of bucket it
# has; nobody would answer.
_QUIET = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
os.environ.update(_QUIET)
pytest.importorskip("gcsfs", reason=REASON)
pytest.importorskip("gcp_storage_emulator", reason=REASON)

from gcp_storage_emulator import exceptions, server  # noqa: E402
from gcp_storage_emulator import storage as emulated  # noqa: E402
from gcp_storage_emulator.handlers import buckets, objects  # noqa: E402
from google.cloud import storage as google_storage  # noqa: E402

NAME = "bucket"
logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
logging.getLogger("api.object").setLevel(logging.CRITICAL)
_MOVE = re.compile(r"/storage/v1/b/(.+?)/o/(.+?)/moveTo/o/([^?]+)")
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Bucket:
    """The server, with one bucket."""

    def __init__(self):
        self.storage = emulated.Storage(use_memory_fs=True)
        buckets.create_bucket(NAME, self.storage)
        self._refuses: Callable[[str, str], bool] = lambda method, path: False
        self._http = _Server(
            ("127.0.0.1", 0), functools.partial(_Handler, self.storage)
        )
        self._http.bucket = self
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self._http.server_address[1]}"
        # Makes gcsfs, Google's library and TensorStore ask here.
        self.environment = {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
        } | _QUIET

    def names(self, folder: str) -> list[str]:
        """The objects in a folder, below it."""
        found, _ = self.storage.get_file_list(NAME, f"{folder}/")
        return [item["name"].removeprefix(f"{folder}/") for item in found]

    def put(self, name: str) -> None:
        """Makes an empty object, as another program does."""
        google_storage.Client().bucket(NAME).blob(name).upload_from_string(b"")

    def refuses(self, method: str, path: str) -> bool:
        return self._refuses(method, path)

    @contextlib.contextmanager
    def refusing(self, condition: Callable[[str, str], bool]) -> Iterator[None]:
        """Answers what fulfils the condition, of method and path, with 403."""
        before, self._refuses = self._refuses, condition
        try:
            yield
        finally:
            self._refuses = before

    @contextlib.contextmanager
    def dead_after(self, writes: int) -> Iterator[list[str]]:
        """Lets that many writes through, and none after: as a kill would.

        Yields:
          The paths of the writes, refused ones too.
        """
        seen = []

        def refuse(method, path):
            if method not in WRITES:
                return False
            seen.append(path)
            return len(seen) > writes

        with self.refusing(refuse):
            yield seen


@functools.cache
def _bucket() -> Bucket:
    # One for all, since libraries keep what they have once connected to.
    return Bucket()


def use_bucket() -> Iterator[Bucket]:
    """Has this process find the bucket at gs://bucket; a generator."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _bucket().environment.items():
            patch.setenv(name, value)
        yield _bucket()


class _Server(http.server.HTTPServer):
    # Eight threads of TensorStore may ask at once.
    request_queue_size = 128
    bucket: Bucket

    def handle_error(self, request, client_address):
        """A client may go before it has its answer."""


class _Handler(server.RequestHandler):
    def _answer(self):
        length = int(self.headers.get("content-length") or 0)
        if self.server.bucket.refuses(self.command, self.path):
            self.rfile.read(length)
            self._say(403, {"error": {"code": 403, "message": "no access"}})
        elif self._is_outdated():
            self.rfile.read(length)
            self._say(412, {"error": {"code": 412, "message": "outdated"}})
        elif move := _MOVE.match(self.path):
            self.rfile.read(length)
            self._say(*self._moved(*map(unquote, move.groups())))
        else:
            server.Router(self).handle(self.command)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _moved(self, bucket, source, target):
        try:
            names = (bucket, source, bucket, target)
            made = objects._copy("", self.storage, *names)
        except exceptions.NotFound:
            return 404, {}
        self.storage.delete_file(bucket, source)
        return 200, made

    def _is_outdated(self):
        """Whether a write asks for another generation than there is."""
        wanted = self._query().get("ifGenerationMatch")
        # Google's own library names the object in the body.
        is_named = "/o/" in self.path or "name" in self._query()
        return (
            self.command in WRITES
            and is_named
            and wanted not in (None, [self._generation()])
        )

    def _query(self):
        return parse_qs(urlsplit(self.path).query)

    def _generation(self):
        """Generation of the object asked for; 0 where there is none."""
        path = urlsplit(self.path).path
        (name,) = self._query().get("name", [unquote(path.split("/o/")[-1])])
        try:
            return self.storage.get_file_obj(NAME, name)["generation"]
        except exceptions.NotFound:
            return "0"

    def end_headers(self):
        if self._query().get("alt") == ["media"]:
            self.send_header("x-goog-generation", self._generation())
        super().end_headers()

    def _say(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def lines_without_times(workdir):
    """metrics.jsonl without what differs from run to run."""
    return [
        {k: v for k, v in record.items() if "second" not in k}
        for record in training_support.read_history(workdir)
    ]


def assert_same_end(workdir, other, config):
    """Compares two runs bit for bit: parameters, metrics, evaluation."""
    one, two = (
        training_support.final_state(d, config) for d in (workdir, other)
    )
    assert (one.step, one.damaged) == (two.step, ())
    training_support.assert_bitwise(one.state, two.state)
    assert lines_without_times(workdir) == lines_without_times(other)
    one, two = (d / "eval/test" for d in (workdir, other))
    for name in ("scores.csv", "panel.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    for name in ("score_maps.npz", "panel.npz"):
        with (one / name).open("rb") as a, (two / name).open("rb") as b:
            first, second = np.load(a), np.load(b)
            training_support.assert_bitwise(dict(first), dict(second))
