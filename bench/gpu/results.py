"""What a run gave, as JSON that is whole at any moment: written anew with every row, in one step."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.gpu.figures import summarize
from bench.gpu.settings import Settings
from bench.gpu.testbed import Testbed
from bench.link.report import finite
from liger import __version__

KINDS = ("profile", "data_plane", "decode", "service")


class Results:
    """Rows as they come.

    Args:
        settings: What is measured.
        testbed: On what.
        path: Of the JSON file; None to keep them in memory alone.
    """

    def __init__(self, settings: Settings, testbed: Testbed | None, path: Path | None) -> None:
        self._settings = settings
        self._testbed = testbed
        self._path = path
        self.rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        self.device: dict[str, Any] = {}
        self.status = "running"

    def add(self, kind: str, row: Mapping[str, Any]) -> None:
        """Keep a row, and write what there is; rows of profiles, hundreds, are written with the next other row."""
        if kind == "device":
            self.device |= row
            return
        self.rows[kind].append(dict(row))
        if kind != "profile":
            self.save()

    def end(self, status: str) -> None:
        """Note how the run ended, and write what there is."""
        self.status = status
        self.save()

    def save(self) -> None:
        """Write everything in place of what was written before; whoever reads sees the one or the other, whole."""
        if self._path is None:
            return
        folder = self._path.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8", delete=False) as file:
            file.write(self.to_json())
        Path(file.name).chmod(0o644)
        os.replace(file.name, self._path)  # noqa: PTH105 - one step

    def to_json(self) -> str:
        """Return everything; what is not known is null."""
        table = {
            "version": __version__,
            "status": self.status,
            "testbed": None if self._testbed is None else asdict(self._testbed) | {"device": self.device},
            "settings": asdict(self._settings),
            "summary": self.summary(),
            **self.rows,
        }
        return json.dumps(finite(table), indent=1) + "\n"

    def summary(self) -> dict[str, object]:
        """Return the run's ratios, by shape."""
        return summarize(self.rows["data_plane"], self.rows["decode"])
