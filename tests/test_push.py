"""`mixer export --push`, against a server here that answers as the Hugging Face Hub; what the Hub reads of a card."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from messages import Says

from mlpmixer.errors import UsageError
from mlpmixer.export import push
from mlpmixer.export.card import front_matter

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub(ThreadingHTTPServer):
    """Keeps the files of one repository; `refuses`: every request gets 401."""

    refuses = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses or self.headers["Authorization"] != "Bearer hf_test":
            return self.answer({"error": "Invalid user token."}, 401)
        if self.path == "/api/repos/create":
            name = json.loads(sent)
            return self.answer({"url": f"{self.server.address}/{name.get('organization', 'me')}/{name['name']}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(sent)["files"]]
            return self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        assert self.path.endswith("/commit/main")
        for line in sent.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self.answer({"commitUrl": f"{self.server.address}/me/cats/commit/1", "commitOid": "1"})

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def python(folder: Path, hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since the library reads its endpoint once."""
    own = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_test", "HF_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_export_is_pushed_with_a_card_that_the_hub_reads(tmp_path: Path, hub: Hub):
    done = python(
        tmp_path,
        hub,
        *("-m", "mlpmixer", "export", "mixer_cifar10", "--to", "safetensors"),
        *("--license", "Apache-2.0", "--push", "me/cats"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.address}/me/cats"
    assert hub.files.keys() == {"mixer_cifar10.safetensors", "README.md"}
    assert hub.files["mixer_cifar10.safetensors"] == (tmp_path / "mixer_cifar10.safetensors").read_bytes()
    assert huggingface_hub.ModelCard(hub.files["README.md"].decode()).data.license == "apache-2.0"


PUSH = """
from pathlib import Path
from mlpmixer.errors import FetchError
from mlpmixer.export.push import push
try:
    print(push([Path("cats.onnx"), Path("cats.onnx.md")], "me/cats"))
except FetchError as error:
    print(f"refused: {error}")
"""


def test_files_are_pushed_or_the_reason_is_one_line(tmp_path: Path, hub: Hub):
    (tmp_path / "cats.onnx").write_bytes(b"\0\1 weights")
    (tmp_path / "cats.onnx.md").write_text("# Cats\n")
    done = python(tmp_path, hub, "-c", PUSH)
    assert done.stdout.strip() == f"{hub.address}/me/cats", done.stderr
    assert hub.files == {"cats.onnx": b"\0\1 weights", "README.md": b"# Cats\n"}
    hub.refuses = True
    [line] = python(tmp_path, hub, "-c", PUSH).stdout.splitlines()
    assert line.startswith("refused: cannot push to me/cats: ")
    assert line.endswith("the files are kept, and `hf auth login` sets the token")


def test_the_front_matter_of_a_card_is_read_whatever_names_are_in_it():
    odd = 'a: "b"\n---\nlicense: mit'
    for license in ("mit", "CC BY-NC 4.0", odd):
        job: Any = SimpleNamespace(
            license=license, model=SimpleNamespace(name="mixer_pico"), info=SimpleNamespace(provenance={"data": odd})
        )
        accuracy = {"value": 0.8978, "low": 0.89, "high": 0.9}
        report = {"format": "onnx", "files": [{"name": "cats.onnx"}], "run": accuracy, "accuracy": None}
        text = front_matter(job, {**report, "images": {"source": odd}}) + "\n\n# cats\n"
        read = huggingface_hub.ModelCard(text).data
        assert read.license == ("mit" if license == "mit" else "other")
        assert (read.pipeline_tag, read.library_name, read.metrics) == ("image-classification", "onnx", ["accuracy"])
        assert read.tags == ["image-classification", "mlpmixer", "mixer_pico", "onnx"]
        assert read.eval_results is not None
        assert [result.metric_value for result in read.eval_results] == [0.8978]


def test_a_repository_has_an_owner_and_a_name(says: Says):
    for wrong in ("cats", "me/cats/1", "me/../x", "https://hub/me/cats", ""):
        with says(UsageError):
            push.require(wrong)
    push.require("me/cats-2.0")
