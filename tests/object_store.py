"""An S3-compatible server on the loopback, for tests of storage that is no folder."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow.fs import FileSystem

# In a process of its own: pyarrow holds the interpreter's lock while it closes a stream that nobody closed, and a
# server in the same interpreter could then never answer. It ends when its standard input does, whatever becomes of the
# tests.
SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""

# What pyarrow and the server both want to see; any values will do. Without the last one, pyarrow asks the network who
# it is running as.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Start a server and yield the query that leads pyarrow to it: ``s3://bucket/path?QUERY``."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:  # closes its standard input, and waits
        assert process.stdout
        port = process.stdout.readline().strip()
        assert port, "moto's server did not start"
        yield f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def make_bucket(name: str, query: str) -> None:
    """Make a bucket; needs CREDENTIALS in the environment."""
    filesystem, path = FileSystem.from_uri(f"s3://{name}?{query}&allow_bucket_creation=true")
    filesystem.create_dir(path)
