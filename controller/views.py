"""What the controller shows of its plans and of its cost model; the values are shared with those who read them."""

from liger.spans import LaneSpan
from liger.views import Correction, Explained, PlannedBatch, ProfileView

__all__ = ["Correction", "Explained", "LaneSpan", "PlannedBatch", "ProfileView"]
