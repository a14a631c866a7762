"""Who is told the events: subscribers, and the one that passes each event on to all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from ntkdist.events.types import SubscriberFailed

Subscriber: TypeAlias = Callable[[Any], None]
"""Takes one event: the progress bar, ``events.jsonl``, metrics, a test."""

_log = logging.getLogger(__name__)


class Subscribers:
    """Passes each event to every subscriber, in the caller's thread; itself a subscriber.

    A subscriber that raises an ``Exception`` gets no more events, because a broken progress bar
    must not end hours of computing. Its failure is logged as a warning with the traceback, and the
    others get ``SubscriberFailed``.
    """

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add one more; it gets the next event."""
        self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove one; nothing happens if it was dropped before."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def __call__(self, event: Any) -> None:
        """Pass one event on."""
        failures = []
        for subscriber in list(self._subscribers):
            try:
                subscriber(event)
            except Exception as error:
                self._subscribers.remove(subscriber)
                name = getattr(subscriber, "__qualname__", type(subscriber).__name__)
                _log.warning("subscriber %s failed and is dropped", name, exc_info=True)
                failures.append(SubscriberFailed(name, f"{type(error).__name__}: {error}"))
        for failure in failures:
            self(failure)
