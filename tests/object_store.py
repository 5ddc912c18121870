"""A real S3 server on loopback that remembers what it was asked for and how much it sent."""

import logging
import threading
import uuid
from typing import NamedTuple

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

# Nothing but the loopback server is asked, and it believes everybody.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


class Request(NamedTuple):
    """One request: method, path with bucket, and the bytes of the answer's body."""

    method: str
    path: str
    bytes: int


class ObjectServer:
    """The server, and a client that is not the code under test."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self.requests = []
        self._inner = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._noted, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.url, **keys)

    def _noted(self, environ, start_response):
        def start(status, headers, *rest):
            size = 0 if environ["REQUEST_METHOD"] == "HEAD" else int(dict(headers).get("Content-Length", 0))
            self.requests.append(Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], size))
            return start_response(status, headers, *rest)

        return self._inner(environ, start)

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Bucket:
    """A bucket of its own for one test. `asked` gives the requests since it was called last."""

    def __init__(self, server):
        self.server, self.client = server, server.client
        self.name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.url = f"s3://{self.name}"
        self.client.create_bucket(Bucket=self.name)
        self.asked()

    def asked(self, method=""):
        found = [request for request in self.server.requests if request.method.startswith(method)]
        self.server.requests.clear()
        return found

    def keys(self):
        """Name -> size of every object."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", [])}

    def get(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key, data):
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, key):
        self.client.delete_object(Bucket=self.name, Key=key)

    def put_folder(self, folder, prefix):
        """Every file below a folder of the disk."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
