"""What there is to check: the hand-written files of the repository, and its contracts."""

import subprocess
import sys
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]
PACKAGES = ("liger", "gateway", "controller", "worker", "bench")
PROTOS = ("types", "inference", "controller", "worker")


def python_files(*folders: str) -> list[Path]:
    """Return the hand-written Python files below some folders of the repository, by default all packages and tests."""
    found = [file for folder in folders or (*PACKAGES, "tests", "scripts") for file in (ROOT / folder).rglob("*.py")]
    return sorted(file for file in found if ROOT / "liger" / "v1" not in file.parents)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@cache
def contracts() -> descriptor_pb2.FileDescriptorSet:
    """Return the contracts as their descriptors, with comments."""
    files = [str(ROOT / "proto" / "liger" / "v1" / f"{name}.proto") for name in PROTOS]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), "--include_source_info"]
    done = subprocess.run([*command, "--descriptor_set_out=/dev/stdout", *files], capture_output=True, check=True)
    return descriptor_pb2.FileDescriptorSet.FromString(done.stdout)
