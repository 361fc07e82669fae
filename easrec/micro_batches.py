"""Micro-batches: a batch in parts, with the gradients of the whole, and in smaller ones when memory runs out.

Legend: B sequences in a batch, N positions.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch

from easrec.allocator import return_freed_memory, trim_heap
from easrec.data.batches import Batch

T = TypeVar("T")

_NO_ROOM_FOR_CODE = "could not create a primitive"
_SIGNS = (
    # torch has a class of its own for the memory of a GPU alone.
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    # oneDNN says no more when it has no room for the code that it writes.
    _NO_ROOM_FOR_CODE,
    "could not create a memory object",
)
_LONGEST_REASON = 200

logger = logging.getLogger(__name__)


class MemoryExhaustedError(RuntimeError):
    """There is not enough memory for what was asked, however few sequences are computed at once."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a CPU or a GPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("size mismatch"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, MemoryExhaustedError)
        and any(sign in str(error) for sign in _SIGNS)
    )


@contextmanager
def memory_explained(what: str, sizes: str) -> Iterator[None]:
    """Let an allocation that fails within a `with` say what was computed, and of which sizes.

    Raises:
        MemoryExhaustedError: in place of any error that `is_out_of_memory`.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"out of memory in {what} ({sizes}), where smaller micro-batches do not help; make the network, "
            f"its max_length or the number of items smaller, or use a machine with more memory "
            f"({_reason(error)})"
        ) from error


class RandomState:
    """Where torch's generators of the CPU and of a device stood, to go back there."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None

    def restore(self) -> None:
        """Let what is drawn next be what was drawn then."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


class MicroBatches:
    """How many sequences are computed at once: what was asked, and less once memory has run out.

    Args:
        asked: sequences; None for whole batches.
        device: where they are computed.
        sizes: what else the memory depends on, for messages.
    """

    def __init__(self, asked: int | None, device: torch.device | str, sizes: str = "") -> None:
        self.size = asked
        """Sequences at once; None for whole batches."""
        self._device = device
        self._sizes = sizes

    def parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """The micro-batches of a batch, each with its share of the batch's targets."""
        size = self.size
        if size is None or size >= len(batch.item_ids):
            yield batch, 1.0
            return
        num_targets = int((batch.targets > 0).sum())
        for item_ids, targets in zip(batch.item_ids.split(size), batch.targets.split(size), strict=True):
            if count := int((targets > 0).sum()):
                yield replace(batch, item_ids=item_ids, targets=targets), count / num_targets

    def fitting(self, batch: Batch, compute: Callable[[], T], what: str) -> T:
        """What `compute` returns, which goes through `parts(batch)`; half the size each time memory runs out.

        Every attempt draws the same random numbers, and must be harmless to repeat. Later batches keep the
        size that was found.

        Args:
            batch: (B, N).
            compute: what needs the memory.
            what: its name, such as `step 3 of search epoch 2`.

        Raises:
            MemoryExhaustedError: a single sequence is too much.
        """
        begun = RandomState(self._device)
        tried: list[int] = []
        while True:
            try:
                return compute()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = _reason(error)
            # Behind the handler, since the error holds on to the tensors of where it was raised.
            if _NO_ROOM_FOR_CODE in reason and torch.backends.mkldnn.enabled:
                # Once this has happened oneDNN writes no more code in a thread, however much room there is.
                torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
                begun.restore()
                continue
            most = len(batch.item_ids)
            now = most if self.size is None else min(self.size, most)
            tried.append(now)
            if now == 1:
                raise MemoryExhaustedError(
                    f"out of memory in {what}, in micro-batches of {', '.join(map(str, tried))} "
                    f"({most} sequences of {batch.item_ids.shape[1]} positions in the batch{self._sizes}); "
                    "make the network or its max_length smaller, or use a machine with more memory "
                    f"({reason})"
                )
            self.size = now // 2
            logger.warning(
                "out of memory in %s: going on in micro-batches of %s, with the same gradients",
                what,
                "1 sequence" if self.size == 1 else f"{self.size} sequences",
            )
            begun.restore()
            # From here on, what is freed serves others too, such as the code that oneDNN writes.
            return_freed_memory(at_once=True)
            trim_heap()
            if torch.device(self._device).type == "cuda":
                torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    """What the allocator said, in a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[text.find("DefaultCPUAllocator") if "DefaultCPUAllocator" in text else 0 :][:_LONGEST_REASON]
