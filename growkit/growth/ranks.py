"""The processes that train one model together: they decide as one, and fail as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from growkit.errors import GrowkitError, PeerError, RankError

__all__ = ["Ranks", "checksum"]

Value = TypeVar("Value")
_FAILED = "a failure"


class Ranks:
    """The processes of a data-parallel run. A single process is the same with nobody to talk to.

    Every exchange says what it is about, so that processes that have got out of step notice instead of mixing up their
    messages, and a process that fails takes part in the next exchange with its failure.

    Args:
        group: of all processes, with a backend that carries CPU tensors; None for a single process.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.size = 1 if group is None else group.size()
        self.rank = 0 if group is None else group.rank()

    def gather(self, about: str, value: Value) -> list[Value]:
        """Return the values of all processes, in order of rank.

        Args:
            about: what the values are; the same in every process.
            value: anything that can be pickled.

        Raises:
            RankError: the processes are out of step. Every process raises.
            PeerError: another process failed. All the others raise.
        """
        if self._group is None:
            return [value]
        answers: list[Any] = [None] * self.size
        dist.all_gather_object(answers, (about, value), group=self._group)
        self._check(answers)
        return [value for _, value in answers]

    def first(self, about: str, value: Value) -> Value:
        """Return the value of the first process.

        Raises:
            RankError: see `gather`.
        """
        return self.gather(about, value if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def decide(self, answer: bool) -> bool:
        """Return the answer of the first process: the cheapest exchange there is, for every step."""
        if self._group is None:
            return answer
        flag = torch.tensor([answer], dtype=torch.uint8)
        dist.broadcast(flag, src=0, group=self._group)
        return bool(flag)

    def agree(self, about: str, value: Any) -> None:
        """Make sure that a value is the same in all processes.

        Raises:
            RankError: it is not, or see `gather`. Every process raises.
        """
        values = self.gather(about, value)
        if any(other != values[0] for other in values):
            raise RankError(
                f"the processes of this run disagree about {about}",
                seen=", ".join(f"rank {rank}: {other}" for rank, other in enumerate(values)),
                expected="the same in every process",
                advice="look for what differs between them: a schedule, a plugin, or code of the model that depends on "
                "the rank, on time, or on an unseeded random number",
            )

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the average of a tensor over all processes; all of them get the same bits.

        Raises:
            RankError: shapes or types differ, or see `gather`.
        """
        if self._group is None:
            return tensor
        total = tensor.detach().clone()
        self.agree("the statistics of growth", (tuple(tensor.shape), str(tensor.dtype)))
        dist.all_reduce(total, group=self._group if total.device.type == "cpu" else None)
        return total / self.size

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let a failure in this block be one of all processes; each of them must have an exchange ahead inside."""
        try:
            yield
        except (RankError, PeerError):
            raise  # all processes do
        except BaseException as error:
            if self._group is not None:
                dist.all_gather_object([None] * self.size, (_FAILED, _described(error)), group=self._group)
            raise

    def _check(self, answers: list[Any]) -> None:
        for rank, (about, value) in enumerate(answers):
            if about == _FAILED:
                raise PeerError(
                    f"growth was called off, since process {rank} failed: {value[0]}",
                    seen=value[1],
                    expected="the same course in every process",
                    advice=f"see the traceback of rank {rank}",
                )
        if len({about for about, _ in answers}) > 1:
            raise RankError(
                "the processes of this run are out of step",
                seen=", ".join(f"rank {rank} at {about}" for rank, (about, _) in enumerate(answers)),
                expected="the same course in every process",
                advice="see that schedules and plugins decide alike in every process",
            )


def _described(error: BaseException) -> tuple[str, str]:
    if isinstance(error, GrowkitError):
        return error.what, error.seen
    return type(error).__name__, (str(error).splitlines() or [""])[0]


@torch.no_grad()
def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of named tensors: equal if and, for all that is known, only if every bit is.

    Cost: one pass over the data, on the CPU.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
