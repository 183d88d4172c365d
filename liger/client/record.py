"""What a generation's stream has told so far."""

from liger.client import results


class GenerateRecord:
    """Notes a generation's events; all is set when the stream has ended."""

    def __init__(self) -> None:
        self.started: results.Started | None = None
        self.finished: tuple[results.Finished, ...] = ()  # by sample
        self.usage: results.Usage | None = None
        self.timings: results.Timings | None = None
        self.placement: results.Placement | None = None

    def note(self, event: results.GenerateEvent) -> None:
        """Take one event in."""
        match event:
            case results.Started():
                self.started = event
            case results.Finished():
                self.finished = tuple(sorted((*self.finished, event), key=lambda item: item.index))
            case results.Summary():
                self.usage, self.timings, self.placement = event.usage, event.timings, event.placement
