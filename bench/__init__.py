"""Measurements: each prints ratios of things measured side by side in one run. Reading map: `generation`."""
