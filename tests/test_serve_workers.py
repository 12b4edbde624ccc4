"""Workers, over a function that answers as a test wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from mlpmixer.machine.ordered_pool import compute_alone
from mlpmixer.serve.workers import Job, Turn, WorkerError, Workers


class Answers:
    """A function for workers that notes its batches, and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, group: Hashable, payloads: list[Any]) -> list[Any]:
        self.batches.append([*payloads])
        self.entered.release()
        assert self.go.wait(30)
        if "die" in payloads:
            raise SystemExit  # ends a thread without a word
        if "bad" in payloads:
            raise ValueError("bad")
        return [(group, payload) for payload in payloads]


class Results:
    """Where jobs put their results."""

    def __init__(self) -> None:
        self.found: dict[Any, Any] = {}
        self.order: list[Any] = []
        self.changed = threading.Condition()

    def job(self, payload: Any, group: Hashable = "m", cost: int = 1, turn: Turn = Turn.FIRST) -> Job:
        def done(result: Any) -> None:
            with self.changed:
                assert payload not in self.found, "answered twice"
                self.found[payload] = result
                self.order.append(payload)
                self.changed.notify_all()

        return Job(payload, group, cost, done, turn)

    def wait(self, count: int) -> dict[Any, Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.found) >= count, 30), self.found
            return self.found


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def results() -> Results:
    return Results()


@pytest.fixture
def begun(answers: Answers) -> Iterator[Any]:
    """Makes workers, which end with the test."""
    made: list[Workers] = []

    def begin(**options: Any) -> Workers:
        settings: dict[str, Any] = {"count": 1, **options}
        made.append(Workers(answers, **settings))
        return made[-1]

    yield begin
    answers.go.set()
    for workers in made:
        workers.close()


def held(workers: Workers, answers: Answers, results: Results) -> None:
    """Each worker is busy with a job of its own until `answers.go` is set."""
    answers.go.clear()
    for number in range(len(workers.workers)):
        workers.submit([results.job(f"held {number}")])
        assert answers.entered.acquire(timeout=30)


def test_a_lone_job_is_answered_at_once(begun: Any, results: Results):
    begun(count=2, piece=8).submit([results.job("a")])
    assert results.wait(1) == {"a": ("m", "a")}


def test_what_waits_is_answered_together_in_order(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=4)
    held(workers, answers, results)
    workers.submit([results.job(number) for number in range(6)])
    answers.go.set()
    results.wait(7)
    assert answers.batches[1:] == [[0, 1, 2, 3], [4, 5]]
    assert results.order[1:] == [*range(6)]


def test_idle_lanes_share_what_is_there(begun: Any, answers: Answers, results: Results):
    workers = begun(count=2, piece=8)
    while workers.idle < 2:
        time.sleep(0.001)
    answers.go.clear()
    workers.submit([results.job(number) for number in range(6)])
    for _ in range(2):
        assert answers.entered.acquire(timeout=30)
    assert sorted(map(len, answers.batches)) == [3, 3]


def test_models_are_not_mixed_and_the_oldest_goes_first(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=4)
    held(workers, answers, results)
    workers.submit([results.job("b1", "B"), results.job("a1", "A"), results.job("b2", "B"), results.job("a2", "A")])
    answers.go.set()
    results.wait(5)
    assert answers.batches[1:] == [["b1", "b2"], ["a1", "a2"]]


def test_cancelled_jobs_are_not_computed(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=4)
    held(workers, answers, results)
    jobs = [results.job(number, cost=5) for number in range(5)]
    workers.submit(jobs)
    for job in jobs[:4]:
        job.cancelled = True
    answers.go.set()
    results.wait(2)
    assert answers.batches[1:] == [[4]]
    assert workers.waiting == 0


def test_a_budget_of_pixels_limits_a_batch(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=8, budget=10)
    held(workers, answers, results)
    workers.submit(
        [results.job(name, cost=cost) for name, cost in (("a", 4), ("b", 4), ("c", 4), ("huge", 40), ("d", 1))]
    )
    answers.go.set()
    results.wait(6)
    assert answers.batches[1:] == [["a", "b"], ["c"], ["huge"], ["d"]]


def test_single_pictures_go_first_and_the_others_every_fourth_time(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=1)
    held(workers, answers, results)
    workers.submit([results.job(f"list {number}", turn=Turn.LATER) for number in range(3)])
    workers.submit([results.job(f"one {number}") for number in range(5)])
    answers.go.set()
    results.wait(9)
    assert [name for [name] in answers.batches[1:]] == [
        *("one 0", "one 1", "list 0", "one 2", "one 3", "one 4"),
        *("list 1", "list 2"),
    ]


def test_lists_and_heat_maps_take_turns(begun: Any, answers: Answers, results: Results):
    """However many of the one wait, the other is answered."""
    workers = begun(piece=1)
    held(workers, answers, results)
    workers.submit([results.job(f"list {number}", turn=Turn.LATER) for number in range(20)])
    workers.submit([results.job(f"map {number}", turn=Turn.ALONE) for number in range(2)])
    workers.submit([results.job(f"one {number}") for number in range(20)])
    answers.go.set()
    results.wait(43)
    order = [name for [name] in answers.batches]
    assert max(order.index("map 0"), order.index("list 0")) < 9
    assert max(order.index("map 1"), order.index("list 1")) < 17
    assert [name for name in order if name.startswith("one")] == [f"one {number}" for number in range(20)]


def test_one_heat_map_at_a_time(begun: Any, answers: Answers, results: Results):
    workers = begun(count=2, piece=4)
    answers.go.clear()
    workers.submit([results.job(f"map {number}", turn=Turn.ALONE) for number in range(2)])
    assert answers.entered.acquire(timeout=30)
    workers.submit([results.job("image")])
    assert answers.entered.acquire(timeout=30)  # the other worker takes it, and not the second map
    assert answers.batches == [["map 0"], ["image"]]
    answers.go.set()
    assert len(results.wait(3)) == 3


def test_a_job_that_raises_hurts_no_other(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=4)
    held(workers, answers, results)
    workers.submit([results.job(name) for name in ("a", "bad", "b")])
    answers.go.set()
    found = results.wait(4)
    assert (found["a"], found["b"]) == (("m", "a"), ("m", "b"))
    assert isinstance(found["bad"], WorkerError)
    assert "ValueError: bad" in str(found["bad"])


def test_too_few_results_are_an_error(results: Results):
    workers = Workers(lambda _group, _payloads: [], count=1)
    workers.submit([results.job("a")])
    assert "0 results for 1 jobs" in str(results.wait(1)["a"])
    workers.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_replaced(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=4)
    held(workers, answers, results)
    workers.submit([results.job(name) for name in ("a", "die", "b")])
    answers.go.set()
    for _ in range(600):  # the watch of the service does this every second
        workers.mend()
        if len(results.found) == 4:
            break
        time.sleep(0.01)
    found = results.wait(4)
    assert (found["a"], found["b"]) == (("m", "a"), ("m", "b"))
    assert isinstance(found["die"], WorkerError)
    assert workers.replaced == 2  # with the batch, and by itself
    assert len(workers.workers) == 1


def test_a_worker_that_hangs_is_replaced(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=4, patience=0.05)
    held(workers, answers, results)
    time.sleep(0.06)
    assert workers.hung()
    workers.mend()  # asked again by itself, it hangs again
    assert answers.entered.acquire(timeout=30)
    time.sleep(0.06)
    workers.mend()
    assert isinstance(results.wait(1)["held 0"], WorkerError)
    answers.go.set()
    workers.submit([results.job("next")])
    assert results.wait(2)["next"] == ("m", "next")
    assert workers.replaced == 2
    assert not workers.hung()


def test_how_long_a_job_would_wait(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=1)
    held(workers, answers, results)
    workers.rate = 100.0
    workers.submit([results.job(number, cost=50) for number in range(4)])
    assert workers.wait_for(100) == pytest.approx(3.0, abs=0.02)
    # What can wait is in nobody's way but that of its like, which has every fourth batch.
    workers.submit([results.job(f"list {number}", cost=1000, turn=Turn.LATER) for number in range(10)])
    assert workers.wait_for(100) == pytest.approx(3.67, abs=0.02)
    assert workers.wait_for(100, Turn.LATER) == pytest.approx(103, abs=0.02)
    assert workers.wait_for(100, Turn.ALONE) == 1.0
    answers.go.set()


def test_closing_answers_what_is_in_work_and_refuses_the_rest(begun: Any, answers: Answers, results: Results):
    workers = begun(piece=1)
    held(workers, answers, results)
    workers.submit([results.job("waits")])
    workers.close()
    assert "shutting down" in str(results.wait(1)["waits"])
    answers.go.set()
    assert results.wait(2)["held 0"] == ("m", "held 0")
    with pytest.raises(WorkerError, match="shutting down"):
        workers.submit([results.job("late")])


def test_thousands_of_jobs_from_many_threads(begun: Any, results: Results):
    """No job is lost or answered twice, whatever the order of events."""
    workers = begun(count=3, piece=4)

    def many(name: str) -> None:
        for number in range(300):
            turn = (Turn.FIRST, Turn.LATER, Turn.ALONE)[number % 3]
            workers.submit([results.job((name, number), group=number % 2, turn=turn)])

    threads = [threading.Thread(target=many, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = results.wait(1200)
    assert all(found[name, number] == (number % 2, (name, number)) for name, number in found)
    assert workers.waiting == 0
    assert not workers.queues


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_each_worker_begins_with_what_it_is_told(results: Results):
    """Also the one that replaces another."""
    begun: list[int] = []
    answers = Answers()
    workers = Workers(answers, count=2, begin=lambda: begun.append(threading.get_ident()))
    workers.submit([results.job("die", group="d")])
    assert answers.entered.acquire(timeout=30)
    until = time.monotonic() + 30
    while not workers.replaced:
        assert time.monotonic() < until
        workers.mend()
    workers.submit([results.job("good", group="g")])
    assert results.wait(1)["good"] == ("g", "good")
    while len(begun) < 3:
        assert time.monotonic() < until
    workers.close()


def test_a_worker_computes_alone_and_others_as_before():
    """Two workers with two threads each would be more than two cores have, and wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(2, initializer=compute_alone) as pool:
            both = threading.Barrier(2)
            seen = [pool.submit(lambda: (both.wait(30), torch.get_num_threads())[1]) for _ in range(2)]
            assert [each.result() for each in seen] == [1, 1]
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
