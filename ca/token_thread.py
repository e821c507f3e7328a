"""The thread in which a PKCS#11 module is spoken with, and how long anybody waits for it.

The rules:

1. A module does one thing at a time, in a thread of its own, in the order in which it was asked.
2. Nobody waits longer than the deadline that he came with, in line and under way: then he is refused (unavailable).
   What still stood in line is not done at all.
3. A call into a module cannot be ended. What is under way for longer than its own deadline means that the module hangs:
   whoever stands in line is refused, and whoever comes, at once, until it answers. Then all goes on as before. The log
   says when it began and when it ended.
4. What was done for somebody who has gone is undone, where he said how. Who cancels has gone, too.
5. The thread keeps no process from ending.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, ParamSpec, TypeVar

from iam.errors import Kind, Refused

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("doorward.pkcs11")


@dataclass(slots=True)
class _Turn:
    """Something to do, for somebody who waits.

    Attributes:
        due: Until when he waits.
        future: Where he waits; it is done before its time when he has been refused, or has gone.
    """

    what: str
    act: Callable[[], Any]
    deadline: float
    due: float
    undo: Callable[[Any], object] | None
    future: "Future[Any]" = field(default_factory=Future)


class TokenThread:
    """A module's thread; it starts when it is first used, and so in the process that uses it.

    Args:
        name: Of the module, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._is_wanted = threading.Condition(self._lock)
        self._is_late = threading.Condition(self._lock)
        self._line: deque[_Turn] = deque()
        self._under_way: _Turn | None = None
        self._began = 0.0
        self._hangs = False
        self._wakes_at = float("inf")
        self._thread: threading.Thread | None = None

    def begin(
        self, what: str, act: Callable[[], T], *, deadline: float, undo: Callable[[T], object] | None = None
    ) -> "Future[T]":
        """Let `act` be done in its turn, and give where to wait for it.

        Args:
            what: Stands after "to", in the log.
            deadline: How many seconds whoever asks will wait; the future is refused (unavailable) after that.
            undo: Is given what `act` returned if nobody waits for it any more; in the thread, too.
        """
        turn = _Turn(what, act, deadline, time.monotonic() + deadline, undo)
        with self._lock:
            if self._hangs:
                turn.future.set_exception(self._refusal(turn))
                return turn.future
            self._start()
            self._line.append(turn)
            self._is_wanted.notify()
            if turn.due < self._wakes_at:
                self._is_late.notify()
        return turn.future

    def call(self, what: str, act: Callable[[], T], *, deadline: float) -> T:
        """Do `act` in its turn and return what it returns; at once where this is the thread itself, which has it.

        Raises:
            Refused: (unavailable) It was not done in time.
        """
        if threading.current_thread() is self._thread:
            return act()
        return self.begin(what, act, deadline=deadline).result()

    def executor(self, what: str, *, deadline: float) -> Executor:
        """Return the thread as a place for coroutines to have something done in, by a deadline."""
        return _InTurn(self, what, deadline)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"pkcs11 {self._name}", daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch, name=f"pkcs11 {self._name}, watch", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._line:
                    self._is_wanted.wait()
                turn = self._line.popleft()
                if turn.future.done():
                    continue  # he has gone
                self._under_way, self._began = turn, time.monotonic()
            _do(turn)
            with self._lock:
                self._under_way = None
                if self._hangs:
                    self._hangs = False
                    _log.warning(
                        "the module %s answers again, after %.1f s", self._name, time.monotonic() - self._began
                    )

    def _watch(self) -> None:
        with self._lock:
            while True:
                self._wakes_at = self._refuse_late(time.monotonic())
                idle = self._wakes_at == float("inf")
                self._is_late.wait(None if idle else max(0.0, self._wakes_at - time.monotonic()))

    def _refuse_late(self, now: float) -> float:
        """Refuse whoever has waited long enough (rules 2 and 3); return when the next one will have."""
        under_way = self._under_way
        if under_way is not None and not self._hangs and now >= self._began + under_way.deadline:
            self._hangs = True
            _log.error(
                "the module %s hangs: it was to %s %.1f s ago and has not come back; until then whatever it is asked is"
                " refused",
                self._name,
                under_way.what,
                now - self._began,
            )
        waiting = [one for one in (under_way, *self._line) if one is not None and not one.future.done()]
        for one in waiting:
            if self._hangs or now >= one.due:
                _settle(one, self._refusal(one))
        self._line = deque(one for one in self._line if not one.future.done())
        moments = [one.due for one in waiting if not one.future.done()]
        if under_way is not None and not self._hangs:
            moments.append(self._began + under_way.deadline)
        return min(moments, default=float("inf"))

    def _refusal(self, turn: _Turn) -> Refused:
        busy = self._under_way
        ago = time.monotonic() - self._began
        with_what = f"it was to {busy.what} {ago:.1f} s ago and has not come back" if busy else "others were before it"
        return Refused(
            Kind.UNAVAILABLE,
            "The hardware token does not answer now.",
            reason=f"the module {self._name} could not {turn.what} in {turn.deadline:g} s: {with_what}",
            retry_after=ceil(turn.deadline),
        )


class _InTurn(Executor):
    """A module's thread, as `asyncio` takes it."""

    def __init__(self, thread: TokenThread, what: str, deadline: float) -> None:
        self._thread = thread
        self._what = what
        self._deadline = deadline

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Let `fn` be done in its turn."""
        return self._thread.begin(self._what, partial(fn, *args, **kwargs), deadline=self._deadline)


def _do(turn: _Turn) -> None:
    try:
        result = turn.act()
    except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it, as from any executor
        _settle(turn, error)
        return
    try:
        turn.future.set_result(result)
    except InvalidStateError:  # he was refused, or has gone
        if turn.undo is not None:
            try:
                turn.undo(result)
            except Exception:  # noqa: BLE001 - there is nobody to tell but the log, and the next one waits
                _log.exception("what was done to %s, for nobody any more, could not be undone", turn.what)


def _settle(turn: _Turn, error: BaseException) -> None:
    try:
        turn.future.set_exception(error)
    except InvalidStateError:
        _log.debug("nobody waits any more for what was to %s: %r", turn.what, error)
