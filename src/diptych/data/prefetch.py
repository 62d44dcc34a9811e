"""Batches on their device one step before they are needed."""

from collections import deque
from collections.abc import Iterator

import torch

from diptych.data.batch import Batch
from diptych.data.draw_loader import DrawLoader
from diptych.data.loader import Loader


class DevicePrefetcher:
    """The batches of a loader on a device.

    On a GPU the next batch is copied on a stream of its own while the current one is used, out of pinned
    memory where the workers' can be pinned; the loader is then one batch ahead of the batches that were
    handed out: save `loader.state_at(next_batch)`, not its `state_dict()`. On the CPU batches pass through.

    Attributes:
        next_batch: number of the batch that the next step of the iteration yields.
    """

    def __init__(self, loader: Loader | DrawLoader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self.next_batch = loader.next_batch

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the loader's `next_batch` on."""
        self.next_batch = self._loader.next_batch
        return self._on_gpu() if self._device.type == "cuda" else self._as_they_are()

    def _as_they_are(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        while True:
            held = [next(batches, None)]
            if held[0] is None:
                return
            self.next_batch += 1
            yield held.pop()  # type: ignore[misc]

    def _on_gpu(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        # A batch in the workers' memory must not be forgotten before its copy is done.
        copying: deque[tuple[torch.cuda.Event, Batch]] = deque()
        coming = self._copy(next(batches, None), stream, copying)
        self._loader.pin()  # the workers run since the first batch
        while coming is not None:
            event, batch = coming
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            for tensor in batch.tensors():
                tensor.record_stream(current)
            while len(copying) > 1:
                copying.popleft()[0].synchronize()
            coming = self._copy(next(batches, None), stream, copying)
            self.next_batch += 1
            yield batch

    def _copy(
        self,
        batch: Batch | None,
        stream: torch.cuda.Stream,
        copying: deque[tuple[torch.cuda.Event, Batch]],
    ) -> tuple[torch.cuda.Event, Batch] | None:
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            moved = batch.to(self._device, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        copying.append((event, batch))
        return event, moved
