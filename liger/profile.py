"""What the ranks of a group measured of their model on their hardware, as plain values."""

from dataclasses import dataclass

from liger.domain import BatchKind, SegmentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSample:
    """One segment kind at one size."""

    batch: BatchKind | None  # None for exchanges, which are the same for all
    segment: SegmentKind
    num_tokens: int
    context: int  # tokens behind each, 0 for none
    duration_ns: int  # of an undisturbed run: the lower quartile of several
    held_ns: int = 0  # of exchanges: how long one keeps its lane when others follow; 0 for all of its duration


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentionSample:
    """One compute kind beside one exchange."""

    compute: SegmentKind
    compute_tokens: int
    communication_bytes: int
    compute_factor: float  # how many times longer the compute takes
    communication_factor: float  # how many times longer the exchange takes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeChoice:
    """One way to all-reduce so many tokens' activations, where ranks have several."""

    num_tokens: int
    is_beside_compute: bool
    communicator: str  # by its name, such as nccl or copy-engine
    duration_ns: int
    delay_ns: int = 0  # by which compute beside it is later
    is_chosen: bool = False  # of the ways with the same tokens and the same beside, one is


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileTable:
    """The slowest rank's measurement at each place; equal on all ranks of a group."""

    key: str  # model, dtype, world size, hardware and version
    activation_bytes: int  # of one token, which an all-reduce exchanges
    segments: tuple[SegmentSample, ...] = ()
    contention: tuple[ContentionSample, ...] = ()
    exchange_choices: tuple[ExchangeChoice, ...] = ()  # all ways tried; none where ranks have but one
