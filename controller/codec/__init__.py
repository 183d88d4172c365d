"""The controller's edge: messages to values and back. Reading map: `gateways`, `ranks`, `cluster`, `plans`."""
