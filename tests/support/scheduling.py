"""A scheduler driven step by step against a simulated rank."""

from collections import deque
from dataclasses import dataclass, field

from controller.core.events import Event, RequestBroken, RequestEnded, StepMade, TokensMade
from controller.core.requests import EncodeItem, EncodeWork, GenerateWork, Request
from controller.core.scheduler import Scheduler
from controller.core.window_report import WindowReport
from liger.domain import FinishReason, Pooling, PoolOutput, Sampling, Task
from liger.schedule import WindowOutcome
from tests.support.simulated_ranks import SimulatedRank, drawn_token, make_scheduler

POOL = PoolOutput(pooling=Pooling.MEAN, normalize=False)


def generate(
    request_id: str,
    prompt=(1, 2, 3),
    *,
    max_tokens=5,
    n=1,
    stop=(),
    min_tokens=0,
    priority=0,
    deadline_ns=None,
    logprobs=None,
    prompt_logprobs=None,
    conversation=1,
    first_stream=0,
):
    sampling = Sampling(logprobs=logprobs)
    work = GenerateWork(
        prompt_token_ids=tuple(prompt),
        samplings=(sampling,) * n,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=frozenset(stop),
        prompt_logprobs=prompt_logprobs,
    )
    return Request(
        request_id=request_id,
        model="m",
        task=Task.GENERATE,
        work=work,
        priority=priority,
        deadline_ns=deadline_ns,
        conversation=conversation,
        first_stream=first_stream,
    )


def encode(request_id: str, *inputs, task=Task.EMBED, priority=0, deadline_ns=None):
    items = tuple(EncodeItem(token_ids=tuple(ids), token_type_ids=(), output=POOL) for ids in inputs)
    return Request(
        request_id=request_id,
        model="m",
        task=task,
        work=EncodeWork(items=items),
        priority=priority,
        deadline_ns=deadline_ns,
    )


def expected_output(prompt, max_tokens, stop=(), min_tokens=0):
    tokens, output = list(prompt), []
    while len(output) < max_tokens:
        output.append(drawn_token(tokens))
        tokens.append(output[-1])
        if output[-1] in stop and len(output) > min_tokens:
            break
    return output


def one_by_one(events):
    """Return events with tokens in columns as those of each sample."""
    found = []
    for event in events:
        if isinstance(event, StepMade):
            found += [
                TokensMade(stream.request_id, stream.sample, offset, (token_id,))
                for stream, offset, token_id in zip(*event, strict=True)
            ]
        else:
            found.append(event)
    return found


def report(outcome: WindowOutcome) -> WindowReport:
    """Return what a group of one rank says of a window."""
    return WindowReport(outcome=outcome, timings=(outcome.timings,))


@dataclass
class Run:
    """A scheduler with a simulated rank; results arrive when `step` is called, windows go out as early as allowed."""

    scheduler: Scheduler = field(default_factory=make_scheduler)
    rank: SimulatedRank = field(default_factory=SimulatedRank)
    events: list[Event] = field(default_factory=list)
    outcomes: deque[WindowOutcome] = field(default_factory=deque)
    now_ns: int = 0

    def publish(self) -> None:
        while (planned := self.scheduler.next_window(self.now_ns)) is not None:
            self.outcomes.append(self.rank.run(*planned))

    def step(self) -> bool:
        self.publish()
        self.now_ns += 100
        if not self.outcomes:
            return False
        outcome = self.outcomes.popleft()
        self.events += self.scheduler.commit(report(outcome), self.now_ns)[0]
        return True

    def finish(self) -> None:
        while self.step():
            pass

    def tokens(self, request_id: str, sample: int = 0) -> list[int]:
        made = self._made(request_id, sample)
        assert [e.offset for e in made] == list(range(len(made)))
        return [token for e in made for token in e.token_ids]

    def reason(self, request_id: str, sample: int = 0) -> FinishReason | None:
        return self._made(request_id, sample)[-1].finish_reason

    def _made(self, request_id: str, sample: int) -> list[TokensMade]:
        return [
            event
            for event in one_by_one(self.events)
            if isinstance(event, TokensMade) and (event.request_id, event.sample) == (request_id, sample)
        ]

    def last(self, request_id: str) -> RequestEnded | RequestBroken:
        (event,) = [
            e for e in self.events if isinstance(e, RequestEnded | RequestBroken) and e.request_id == request_id
        ]
        return event


def check_clean(run: Run) -> None:
    assert run.scheduler.is_idle
    run.scheduler.check_integrity()
    assert run.scheduler._batches.blocks.num_used == 0
    assert run.scheduler._batches.running == []
