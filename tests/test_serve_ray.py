"""The deployment for Ray Serve, in a cluster on this machine: its answers, and what is lost with a replica."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from mlpmixer.predict.predictor import Predictor
from mlpmixer.serve.app import ranked
from mlpmixer.weights.bundled import PHOTO

ray = pytest.importorskip("ray", reason="there is no Ray in this environment (pip install 'mlpmixer[ray-serve]')")
serve = pytest.importorskip("ray.serve", reason="there is no Ray Serve in this environment")

from mlpmixer.serve.ray import Mixer, application  # noqa: E402
from mlpmixer.serve.server import listen  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

CLIENTS = 8
PREDICT = "/v1/predict?top=3"


@pytest.fixture(scope="module")
def expected() -> list[dict[str, object]]:
    found = Predictor("mixer_cifar10", top=3)(PHOTO.read_bytes())
    return [json.loads(json.dumps(ranked(found, 3)))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[httpx2.Client]:
    """Two replicas of one worker, behind a proxy on a free port."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or it writes a token into the home folder
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            deploy(2)
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client
        finally:
            serve.shutdown()
            ray.shutdown()


def deploy(count: int) -> None:
    options = {"num_replicas": count, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 1}}
    serve.run(Mixer.options(**options).bind("mixer_cifar10"))


def replicas() -> list[str]:
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["name"].startswith("SERVE_REPLICA")]


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def under_load(client: httpx2.Client, happens: Callable[[], object]) -> tuple[list[object], list[object]]:
    """The answers of clients that ask all the time, before, while and after something happens; and what else came."""
    found: list[object] = []
    failed: list[object] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answer = client.post(PREDICT, content=PHOTO.read_bytes())
            except httpx2.TransportError as error:
                failed.append(error)
            else:
                known = answer.status_code == 200
                (found if known else failed).append(answer.json()["predictions"] if known else answer.status_code)

    def more() -> None:
        count = len(found) + 100
        wait_until(lambda: len(found) >= count)

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            more()
            happens()
            more()
        finally:
            over.set()
        for one in asking:
            one.result()
    return found, failed


def test_answers_are_the_predictors(cluster: httpx2.Client, expected: list[dict[str, object]]):
    answer = cluster.post(PREDICT, content=PHOTO.read_bytes())
    assert (answer.status_code, answer.json()["predictions"]) == (200, expected)
    assert cluster.post(PREDICT, files={"image": PHOTO.read_bytes()}).json()["predictions"] == expected
    assert cluster.post(PREDICT, content=b"no image").status_code == 415
    assert cluster.get("/readyz").text == "ready\n"
    assert cluster.get("/v2/models/mixer_cifar10/ready").status_code == 200
    assert "mixer_workers 1.0" in cluster.get("/metrics").text  # as many as a replica has CPUs
    assert application({"models": "a=mixer_cifar10,b=mixer_cifar10"}) is not None


def test_a_replica_that_is_killed_takes_what_it_was_answering_only(
    cluster: httpx2.Client, expected: list[dict[str, object]]
):
    """Each client loses one request at most, with a 500, and is answered when it asks again; another replica begins."""
    first, second = replicas()
    found, failed = under_load(cluster, lambda: ray.kill(ray.get_actor(first, namespace="serve")))
    assert all(one == expected for one in found)
    assert {*failed} <= {500}
    assert len(failed) <= CLIENTS
    wait_until(lambda: len(replicas()) == 2 and first not in replicas())
    assert second in replicas()


def test_a_replica_that_is_stopped_takes_nothing(cluster: httpx2.Client, expected: list[dict[str, object]]):
    found, failed = under_load(cluster, lambda: deploy(1))
    assert all(one == expected for one in found)
    assert not failed
    wait_until(lambda: len(replicas()) == 1)
