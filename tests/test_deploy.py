"""Files of deploy/: their commands are those of `mixer serve`, their probes have routes, and what would read them takes
them, where it is installed."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from in_processes import Mixer

from mlpmixer.cli import parse
from mlpmixer.serve.app import app_of
from mlpmixer.serve.guard import ConnectionLimits
from mlpmixer.serve.page import document
from mlpmixer.serve.served import Models
from mlpmixer.serve.server import GRACE, listen
from mlpmixer.serve.service import Service, Settings
from mlpmixer.weights.bundled import PHOTO

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy"
NAME = "photos.example.org"
NGINX, SYSTEMD, OPENSSL = (shutil.which(name) for name in ("nginx", "systemd-analyze", "openssl"))
needs_nginx = pytest.mark.skipif(not (NGINX and OPENSSL), reason="there is no nginx, or no openssl, on this machine")


def text_of(name: str) -> str:
    return (FOLDER / name).read_text()


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile: (instruction, the rest of the line)."""
    whole = re.sub(r"(?m)^#.*\n", "", text_of("Containerfile")).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def entry_point() -> list[str]:
    [found] = [json.loads(rest) for word, rest in instructions() if word == "ENTRYPOINT"]
    return found


def manifests() -> dict[str, dict[str, Any]]:
    """What is in kubernetes.yaml and kserve.yaml, by its kind."""
    found = [one for name in ("kubernetes", "kserve") for one in yaml.safe_load_all(text_of(f"{name}.yaml"))]
    return {one["kind"]: one for one in found}


def pods() -> dict[str, dict[str, Any]]:
    """Specifications of pods of one container."""
    all_of_them = manifests()
    return {
        "kubernetes.yaml": all_of_them["Deployment"]["spec"]["template"]["spec"],
        "kserve.yaml": all_of_them["InferenceService"]["spec"]["predictor"],
    }


def probes(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: probe for name, probe in pod["containers"][0].items() if name.endswith("Probe")}


def commands() -> dict[str, list[str]]:
    """`mixer serve` as each file has it."""
    compose = yaml.safe_load(text_of("compose.yaml"))["services"]["mixer"]
    [unit] = re.findall(r"(?m)^ExecStart=(.+)$", text_of("mixer.service"))
    [proxied] = re.findall(r"(?m)^#\s+(mixer serve .+)$", text_of("nginx.conf"))
    found = {
        "Containerfile": entry_point(),
        "compose.yaml": [*entry_point(), *compose["command"]],
        "mixer.service": shlex.split(unit),
        "nginx.conf": shlex.split(proxied),
    }
    return found | {name: [*entry_point(), *pod["containers"][0]["args"]] for name, pod in pods().items()}


def test_commands_are_those_of_mixer_serve():
    for name, (program, *arguments) in commands().items():
        assert Path(program).name == "mixer", name
        assert arguments[0] == "serve", name
        parse(arguments)  # raises where an option is unknown or a value does not fit
    assert "--trusted-proxy" in commands()["nginx.conf"]
    told = re.findall(r"(?m)^    .*?(mixer serve\b[^#\n]*)", (ROOT / "docs" / "serving.md").read_text())
    assert len(told) > 3
    for line in told:
        parse(shlex.split(line)[1:])


def test_the_containerfile():
    found = instructions()
    words = [word for word, _ in found]
    assert {*words} <= {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "USER", "EXPOSE", "ENTRYPOINT"}
    assert words[:2] == ["ARG", "FROM"]
    values = dict(found)  # of each the last
    assert values["FROM"] == "${PYTHON}"
    assert values["USER"].split(":")[0] not in ("0", "root")
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN")
    assert int(values["EXPOSE"]) == 8000
    for word, rest in found:
        sources = rest.split()[:-1] if word == "COPY" else ()
        assert all((ROOT / source).exists() for source in sources), rest
    folder = json.loads(values["VOLUME"])[0] if values["VOLUME"].startswith("[") else values["VOLUME"]
    assert f"XDG_CACHE_HOME={folder}" in values["ENV"]
    assert f"TMPDIR={folder}" in values["ENV"]  # where compilers write, since the rest may be read-only
    for path in FOLDER.iterdir():
        assert not re.search(r"docker\.io|ghcr\.io|quay\.io|pypi\.org|download\.pytorch\.org", path.read_text()), path


def test_compose():
    compose = yaml.safe_load(text_of("compose.yaml"))
    service = compose["services"]["mixer"]
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).samefile(FOLDER / "Containerfile")
    assert service["read_only"]
    assert service["volumes"] == ["cache:/cache"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]  # this machine's only
    assert ":?" in service["environment"]["MLPMIXER_TOKEN"]  # nothing starts without one
    assert int(service["stop_grace_period"].rstrip("s")) > GRACE


def test_pods():
    for name, pod in pods().items():
        [container] = pod["containers"]
        security = {**pod.get("securityContext", {}), **container["securityContext"]}
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] == 65534, name
        assert security["readOnlyRootFilesystem"], name
        assert not security["allowPrivilegeEscalation"], name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not pod["automountServiceAccountToken"], name
        assert container["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}], name
        assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == ["cache"], name
        variables = {one["name"]: one for one in container["env"]}
        assert variables["MLPMIXER_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "mixer", "key": "token"}}, name
        assert [port["containerPort"] for port in container["ports"]] == [8000], name
        assert container["resources"]["limits"]["cpu"].isdecimal(), name
        assert {"livenessProbe", "readinessProbe"} <= {*probes(pod)}, name


def test_kubernetes():
    found = manifests()
    [container] = (pod := pods()["kubernetes.yaml"])["containers"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before + GRACE
    paths = {name: probe["httpGet"]["path"] for name, probe in probes(pod).items()}
    assert paths == {"startupProbe": "/readyz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    [port] = found["Service"]["spec"]["ports"]
    assert port["targetPort"] in [one["name"] for one in container["ports"]]
    assert found["Service"]["metadata"]["name"] in container["args"]  # clients ask for it by this name
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert [metric["pods"]["metric"]["name"] for metric in scaler["metrics"]] == ["mixer_wait_seconds"]
    assert "replicas" not in found["Deployment"]["spec"]  # which would undo what the autoscaler does


def test_kserve():
    predictor = pods()["kserve.yaml"]
    [container] = predictor["containers"]
    assert container["name"] == "kserve-container"
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 8)
    assert predictor["timeout"] > Settings().deadline
    assert all(probe["httpGet"]["path"].startswith("/v2/health/") for probe in probes(predictor).values())


def test_probes_have_routes():
    """Asked by the address of the pod and without a token, as they will be; of a service that is not ready."""
    service = Service(Models(["mixer_cifar10"], {}), Settings(token="secret"), workers=1, tell=lambda _: None)
    paths = {probe["httpGet"]["path"] for pod in pods().values() for probe in probes(pod).values()}

    async def asked() -> dict[str, int]:
        transport = httpx2.ASGITransport(app_of(service), client=("10.0.0.1", 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return {path: (await client.get(path)).status_code for path in sorted(paths)}

    assert asyncio.run(asked()) == {"/healthz": 200, "/readyz": 503, "/v2/health/live": 200, "/v2/health/ready": 503}


def test_manifests_have_the_schema_of_kubernetes():
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    found = manifests()
    service = found.pop("InferenceService")["spec"]["predictor"]
    spec = {name: value for name, value in service.items() if name in ("containers", "volumes")}
    found["Pod"] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mixer"}, "spec": spec}
    for one in found.values():
        validate.validate(one, validate.latest_version(), strict=True)


@pytest.mark.skipif(not SYSTEMD, reason="there is no systemd-analyze on this machine")
def test_systemd_takes_the_service(tmp_path: Path):
    text = text_of("mixer.service")
    program = commands()["mixer.service"][0]
    unit = tmp_path / "mixer.service"
    unit.write_text(text.replace(program, sys.executable))
    for arguments in (["verify", unit], ["security", "--offline=true", "--threshold=20", unit]):  # 2 of 10
        ended = subprocess.run([str(SYSTEMD), *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert arguments[0] != "verify" or not ended.stderr
    [seconds] = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", text)
    assert int(seconds) > GRACE


def site(folder: Path, *, upstream: int = 8000, tls: int = 8443, plain: int = 8080, place: str = "/") -> Path:
    """nginx.conf with the ports, files and place of a test, within what nginx needs around it."""
    text = text_of("nginx.conf")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    made = [str(OPENSSL), *request, "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    changes = {
        "listen [::]:443 ssl;": "",
        "listen [::]:80;": "",
        "listen 443 ssl": f"listen 127.0.0.1:{tls} ssl",
        "listen 80": f"listen 127.0.0.1:{plain}",
        f"/etc/ssl/{NAME}.pem": str(certificate),
        f"/etc/ssl/private/{NAME}.key": str(key),
        "server 127.0.0.1:8000": f"server 127.0.0.1:{upstream}",
    }
    if place != "/":  # as its comment says
        changes |= {"location / {": f"location {place} {{", "proxy_pass http://mixer;": "proxy_pass http://mixer/;"}
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text)
    paths = "\n".join(f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;\nevents {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body;\n{paths}\ninclude {folder}/site.conf; }}\n"
    )
    return path


@needs_nginx
def test_nginx_takes_its_file(tmp_path: Path):
    for place in ("/", "/classify/"):
        folder = tmp_path / place.strip("/")
        folder.mkdir(exist_ok=True)
        command = [str(NGINX), "-t", "-q", "-p", folder, "-c", site(folder, place=place)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert "keepalive_timeout" not in text_of("nginx.conf")
    assert ConnectionLimits().idle_seconds > 60  # nginx's own: it ends a connection first
    [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", text_of("nginx.conf"))
    assert int(seconds) > Settings().deadline


@contextmanager
def proxied(folder: Path, upstream: int, place: str) -> Iterator[tuple[int, int]]:
    """nginx before a service: its ports for TLS and without."""
    with listen("127.0.0.1", 0) as first, listen("127.0.0.1", 0) as second:
        tls, plain = (free.getsockname()[1] for free in (first, second))
    path = site(folder, upstream=upstream, tls=tls, plain=plain, place=place)
    with subprocess.Popen([str(NGINX), "-p", folder, "-c", path]) as process:
        try:
            until = time.monotonic() + 20
            while not listens(plain):
                assert process.poll() is None, (folder / "errors").read_text()
                assert time.monotonic() < until
                time.sleep(0.01)
            yield tls, plain
        finally:
            process.send_signal(signal.SIGTERM)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def refused_by_its_head(port: int, path: str) -> int:
    """The status of a request of which the body never comes, from a page of another server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    head = f"POST {path} HTTP/1.1\r\nHost: {NAME}\r\nOrigin: https://evil.example\r\nContent-Type: image/jpeg\r\n"
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname=NAME) as client,
    ):
        client.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        return int(client.recv(1000).split()[1])


@needs_nginx
@pytest.mark.slow
def test_a_service_behind_nginx(tmp_path: Path):
    """At / and below a path: the page, an answer, who asked, and what is refused."""
    options = ("--workers", 1, "--json-log", "--host-name", NAME, "--trusted-proxy", "127.0.0.1")
    with Mixer("serve", "--port", 0, *options) as service:
        lines = map(json.loads, service.stdout)
        upstream = int(next(lines)["address"].strip("/").rpartition(":")[2])
        assert next(line for line in lines if "ready" in line.get("message", ""))
        for place in ("/", "/classify/"):
            folder = tmp_path / (place.strip("/") or "root")
            folder.mkdir()
            transport = httpx2.HTTPTransport(verify=False, local_address="127.0.0.2")
            with proxied(folder, upstream, place) as (tls, plain):
                headers = {"Host": f"{NAME}:{tls}", "X-Forwarded-For": "192.0.2.7"}  # a lie
                address = f"https://127.0.0.1:{tls}{place}"
                with httpx2.Client(transport=transport, base_url=address, headers=headers, timeout=20) as client:
                    assert client.get("").text == document(Settings())[0]
                    seen = next(line for line in lines if line.get("route") == "/")
                    assert seen["client"] == "127.0.0.2"
                    for origin, status in ((f"https://{NAME}:{tls}", 200), ("https://evil.example", 403)):
                        asked = {"Origin": origin, "Content-Type": "image/jpeg"}
                        answer = client.post("v1/predict", content=PHOTO.read_bytes(), headers=asked)
                        assert answer.status_code == status
                        assert status != 200 or answer.json()["predictions"][0]["label"] == "cat"
                    assert client.get("healthz", headers={"Host": "evil.example"}).status_code == 421
                    assert client.post("v1/predict", content=bytes(70_000_000)).status_code == 413
                assert refused_by_its_head(tls, f"{place}v1/predict") == 403
                moved = httpx2.get(f"http://127.0.0.1:{plain}/x", headers={"Host": NAME})
                assert (moved.status_code, moved.headers["location"]) == (308, f"https://{NAME}/x")
