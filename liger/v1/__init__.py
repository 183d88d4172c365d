"""Messages and services of `liger.v1`, generated from proto/ by `make fix-proto`."""
