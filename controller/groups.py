"""All groups: members become groups, requests find the least loaded group of their model."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from controller.config import ControllerConfig
from controller.core.requests import EncodeWork, Request
from controller.group import RETRY_S, Group, Sink
from controller.membership.base import Member, Membership
from controller.status import GroupState
from liger.domain import ModelCard, ScoreOutput, Task
from liger.errors import InvalidRequestError, ModelNotFoundError, UnavailableError, UnsupportedTaskError

_LOG: Final = logging.getLogger(__name__)


class Groups:
    """The groups of one controller.

    Args:
        config: Bounds.
        membership: Who is there.
        on_change: Called when the models that can be called may have changed.
    """

    def __init__(self, config: ControllerConfig, membership: Membership, on_change: Callable[[], None]) -> None:
        self._config = config
        self._membership = membership
        self._on_change = on_change
        self._groups: dict[str, Group] = {}

    def all(self) -> tuple[Group, ...]:
        """Return all groups, by name."""
        return tuple(self._groups[name] for name in sorted(self._groups))

    def find(self, name: str) -> Group:
        """Return a group.

        Raises:
            InvalidRequestError: There is none of that name.
        """
        if name not in self._groups:
            known = ", ".join(sorted(self._groups)) or "none"
            raise InvalidRequestError(f"there is no group {name!r}; there are: {known}", field="group")
        return self._groups[name]

    def choose(self, name: str) -> Group:
        """Return a group, or the only one where none is named.

        Raises:
            InvalidRequestError: There is none of that name, or several and no name.
            UnavailableError: There is none at all.
        """
        if name:
            return self.find(name)
        if not self._groups:
            raise UnavailableError("no worker has registered yet; start some", retry_after_s=RETRY_S)
        if len(self._groups) > 1:
            raise InvalidRequestError(f"name one of the groups: {', '.join(sorted(self._groups))}", field="group")
        return next(iter(self._groups.values()))

    def check_admissible(self, member: Member) -> None:
        """Refuse a worker that cannot belong to its group.

        Raises:
            InvalidRequestError: Its group holds another model or size, or its GPU is another group's.
        """
        for other in self._membership.members():
            if other.device_id and other.device_id == member.device_id and other.group != member.group:
                raise InvalidRequestError(
                    f"device {member.device_id} belongs to group {other.group}; one group for each set of devices"
                )
            if other.model.name == member.model.name and other.model.fingerprint != member.model.fingerprint:
                raise InvalidRequestError(
                    f"another model is served as {member.model.name!r} ({other.model.fingerprint[:8]}, this one is "
                    f"{member.model.fingerprint[:8]}); start this worker with another --model-name"
                )
            if other.group == member.group and _kind(other) != _kind(member):
                raise InvalidRequestError(
                    f"group {member.group} holds {_describe(other)}, this worker {_describe(member)}; "
                    "start it with another --group"
                )

    def submit(self, request: Request, sink: Sink) -> Group:
        """Give a request to the least loaded group of its model and return that group.

        Raises:
            ModelNotFoundError: No group holds the model.
            UnavailableError: None of them serves now.
            LigerError: As `Group.submit`.
        """
        holders = [group for group in self._groups.values() if group.model and group.model.name == request.model]
        if not holders:
            raise ModelNotFoundError(f"no group holds model {request.model!r}", field="model")
        serving = [group for group in holders if group.state is GroupState.SERVING]
        if not serving:
            raise UnavailableError(f"model {request.model!r} is not ready; try again", retry_after_s=RETRY_S)
        card = serving[0].model
        if card is not None and _needed(request) not in card.tasks:
            known = ", ".join(task.name.lower() for task in card.tasks)
            raise UnsupportedTaskError(f"model {request.model!r} cannot {request.task.name.lower()}; it can: {known}")
        group = min(serving, key=lambda each: (each.num_requests, each.name))
        group.submit(request, sink)
        return group

    def catalogue(self) -> list[tuple[ModelCard, int]]:
        """Return each model with the number of groups that serve it, by name."""
        cards: dict[str, ModelCard] = {}
        serving: dict[str, int] = {}
        for group in self.all():
            if group.model is not None:
                name = group.model.name
                cards.setdefault(name, group.model)
                serving[name] = serving.get(name, 0) + (group.state is GroupState.SERVING)
        return [(cards[name], serving[name]) for name in sorted(cards)]

    def member_with(self, model: str) -> Member:
        """Return a worker that holds a model's folder.

        Raises:
            ModelNotFoundError: None does.
        """
        for member in self._membership.members():
            if member.model.name == model:
                return member
        raise ModelNotFoundError(f"no group holds model {model!r}", field="model")

    async def drain(self, groups: Sequence[Group], limit_s: float) -> tuple[int, int]:
        """Drain several groups side by side; return requests (finished, abandoned)."""
        counts = await asyncio.gather(*(group.drain(limit_s) for group in groups))
        return sum(finished for finished, _ in counts), sum(abandoned for _, abandoned in counts)

    def close(self) -> None:
        """Form no group again."""
        for group in self._groups.values():
            group.close()

    async def run(self) -> None:
        """Follow membership: a task for each group, for as long as the controller runs."""
        async with asyncio.TaskGroup() as tasks:
            version = -1
            while True:
                version = await self._membership.changed(version)
                self._spread(self._membership.members(), lambda group: tasks.create_task(group.run()))
                self._on_change()

    def _spread(self, members: Sequence[Member], begin: Callable[[Group], object]) -> None:
        by_group: dict[str, list[Member]] = {name: [] for name in self._groups}
        for member in members:
            by_group.setdefault(member.group, []).append(member)
        for name, of_group in by_group.items():
            if name not in self._groups:
                group = Group(name=name, config=self._config, membership=self._membership, on_change=self._on_change)
                self._groups[name] = group
                begin(group)
            self._groups[name].set_members(of_group)


def _needed(request: Request) -> Task:
    """Return what a model must be able to do: labels that the client brings are compared by their likelihood."""
    work = request.work
    scores = isinstance(work, EncodeWork) and isinstance(work.items[0].output, ScoreOutput)
    return Task.SCORE if scores else request.task


def _kind(member: Member) -> tuple[object, ...]:
    return (
        member.model.name,
        member.model.fingerprint,
        member.model.dtype,
        member.tp_size,
        member.pp_size,
        member.version,
    )


def _describe(member: Member) -> str:
    size = f"tp {member.tp_size} × pp {member.pp_size}"
    return f"{member.model.name} ({member.model.dtype}, {size}, {member.model.fingerprint[:8]}, {member.version})"
