"""Who waits for a store that is away, and who does not."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from weft.agent.store_turn import StoreTurn
from weft.store import StoreUnavailable


class Question:
    """What takes the turn and asks; answered, or not, when the test says so."""

    def __init__(self, turn: StoreTurn, *, answer: bool) -> None:
        self._turn = turn
        self._answer = answer
        self.asked, self.over = threading.Event(), threading.Event()

    def __call__(self) -> None:
        with self._turn.held(), self._turn.asking():
            self.asked.set()
            assert self.over.wait(20)
            if not self._answer:
                raise StoreUnavailable("away")


def take(turn: StoreTurn) -> None:
    with turn.held():
        pass


def fail(turn: StoreTurn) -> None:
    question = Question(turn, answer=False)
    question.over.set()
    with pytest.raises(StoreUnavailable, match="away"):
        question()


def test_those_that_wait_share_what_the_one_that_asks_is_told() -> None:
    turn = StoreTurn()
    question = Question(turn, answer=False)
    with ThreadPoolExecutor(8) as workers:
        first = workers.submit(question)
        assert question.asked.wait(20)
        waiting = [workers.submit(take, turn) for _ in range(7)]
        question.over.set()
        with pytest.raises(StoreUnavailable, match="away"):
            first.result(20)
        for one in waiting:
            # Whoever came to wait before it was over; whoever came later has its turn.
            assert isinstance(one.exception(20), StoreUnavailable | None)


def test_while_the_store_is_away_nobody_waits_for_the_one_that_asks() -> None:
    turn = StoreTurn()
    fail(turn)
    question = Question(turn, answer=True)
    with ThreadPoolExecutor(1) as worker:
        asking = worker.submit(question)
        assert question.asked.wait(20)
        with pytest.raises(StoreUnavailable, match="away"):
            take(turn)
        question.over.set()
        asking.result(20)
    take(turn)


def test_what_did_not_ask_says_nothing_of_the_store() -> None:
    turn = StoreTurn()
    fail(turn)
    take(turn)
    with ThreadPoolExecutor(1) as worker, turn.held():
        assert isinstance(worker.submit(take, turn).exception(20), StoreUnavailable)
