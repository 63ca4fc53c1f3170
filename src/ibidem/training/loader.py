"""Micro batches, prepared by a thread while the device computes the ones before.

    thread      windows -> ids, document edges -> pinned memory -> [ a few micro batches ]
    training                                                          copied when a step asks for them, without waiting

What a step gets depends on its number alone; the thread only decides when it is prepared.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ibidem.modeling.attention import Documents, Layout

AHEAD = 4
"""Micro batches that wait at most; one more is being prepared."""


class Batch(NamedTuple):
    """A micro batch; where there is a GPU, on the CPU in pinned memory until it is copied."""

    ids_BT: Tensor
    """The inputs; int64."""
    targets_BT: Tensor
    """The id after each input, or `loss.IGNORE`; int64."""
    documents: Layout | None
    counted_N: Tensor | None = None
    """Positions in the joined rows whose targets count; None: all do."""
    others: tuple[Tensor, ...] = ()
    """What else the loss needs, in an order of the objective's own."""

    @classmethod
    def of_windows(cls, windows_BS: Tensor, documents: Documents | None) -> "Batch":
        """Make a batch of windows of T + 1 ids in which every id after the first is a target."""
        return cls(windows_BS[:, :-1], windows_BS[:, 1:], documents)

    def pinned(self) -> "Batch":
        """Copy it to pinned memory, from which a GPU copies while the host goes on."""
        return Batch(
            self.ids_BT.pin_memory(),
            self.targets_BT.pin_memory(),
            None if self.documents is None else self.documents.pinned(),
            None if self.counted_N is None else self.counted_N.pin_memory(),
            tuple(each.pin_memory() for each in self.others),
        )

    def to(self, device: torch.device) -> "Batch":
        """Copy it to a device, without waiting for it if it is pinned."""
        return Batch(
            self.ids_BT.to(device, non_blocking=True),
            self.targets_BT.to(device, non_blocking=True),
            None if self.documents is None else self.documents.to(device),
            None if self.counted_N is None else self.counted_N.to(device, non_blocking=True),
            tuple(each.to(device, non_blocking=True) for each in self.others),
        )


class Loader:
    """Prepares micro batches in order, from the step that is given to `begin` on."""

    def __init__(
        self, make: Callable[[int, int], Batch], *, micro_batches: int, stop: int, device: torch.device
    ) -> None:
        """Prepare nothing yet.

        Args:
            make: returns a micro batch of a step, on the CPU; called by one thread at a time.
            micro_batches: of each step.
            stop: the step before which the run ends; nothing is read beyond.
            device: where batches go.
        """
        self._make, self._micro_batches, self._end, self._device = make, micro_batches, stop * micro_batches, device
        self._next, self._reader = 0, _Reader.idle()

    def begin(self, step: int) -> None:
        """Prepare the micro batches from this step on, if they are not those that come next anyway."""
        place = step * self._micro_batches
        if place == self._next and self._reader.is_reading:
            return
        self.close()
        self._next = place
        self._reader = _Reader(self._prepared, place, self._end)

    def take(self, step: int, micro: int) -> Batch:
        """Return a micro batch on the device.

        Raises:
            Exception: what went wrong while it was prepared.
        """
        place = step * self._micro_batches + micro
        assert self._reader.is_reading, "begin() starts a step"
        assert place == self._next, f"micro batch {self._next} comes next, not {place}"
        batch = self._reader.take()
        self._next += 1
        return batch.to(self._device)

    def close(self) -> None:
        """End the thread; what it has prepared is dropped."""
        self._reader.close()

    def _prepared(self, place: int) -> Batch:
        batch = self._make(*divmod(place, self._micro_batches))
        if self._device.type != "cuda":
            return batch
        with torch.cuda.device(self._device):  # a thread starts on the first device
            return batch.pinned()


class _Reader:
    """A thread that makes items `start` to `end` - 1, and the few of them that wait to be taken."""

    def __init__(self, make: Callable[[int], Batch], start: int, end: int) -> None:
        self._make, self._range = make, range(start, end)
        self._ready: deque[Batch | BaseException] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._read, name="ibidem-loader", daemon=True)
        self.is_reading = bool(self._range)
        if self.is_reading:
            self._thread.start()

    @classmethod
    def idle(cls) -> "_Reader":
        def nothing(place: int) -> Batch:
            raise AssertionError(place)

        return cls(nothing, 0, 0)

    def take(self) -> Batch:
        with self._changed:
            self._changed.wait_for(lambda: self._ready)
            item = self._ready.popleft()
            self._changed.notify_all()
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self.is_reading:
            self.is_reading = False
            self._thread.join()

    def _read(self) -> None:
        for place in self._range:
            item = self._made(place)
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._ready) < AHEAD)
                if self._closed:
                    return
                self._ready.append(item)
                self._changed.notify_all()
            if isinstance(item, BaseException):
                return

    def _made(self, place: int) -> Batch | BaseException:
        try:
            return self._make(place)
        except BaseException as error:  # noqa: BLE001 - raised again in the step that needs it
            return error
