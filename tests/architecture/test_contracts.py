import ast
import re
from collections.abc import Iterator
from enum import IntEnum
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from liger import cluster_state, domain
from liger.v1 import controller_pb2, types_pb2, worker_pb2
from tests.architecture.source import ROOT, contracts, python_files

SERVICERS = {"InferenceService": "gateway", "ControllerService": "controller", "WorkerService": "worker"}
ENUMS = {
    domain.Lane: types_pb2.Lane,
    domain.BatchKind: types_pb2.BatchKind,
    domain.SegmentKind: worker_pb2.SegmentKind,
    domain.Task: types_pb2.Task,
    domain.Pooling: types_pb2.Pooling,
    domain.FinishReason: types_pb2.FinishReason,
    domain.Axis: worker_pb2.Pattern.Piece.Axis,
    cluster_state.GroupPhase: controller_pb2.GroupStatus.State,
}


def rpcs() -> list[tuple[str, str]]:
    return [(service.name, rpc.name) for file in contracts().file for service in file.service for rpc in service.method]


@pytest.mark.parametrize(("service", "rpc"), rpcs())
def test_every_rpc_has_an_implementation(service, rpc):
    methods = {
        method.name
        for file in python_files(SERVICERS[service])
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(f"{service}Servicer" in ast.unparse(base) for base in node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert rpc in methods


@pytest.mark.parametrize(("service", "rpc"), rpcs())
def test_every_rpc_is_called_by_a_test(service, rpc):
    call = re.compile(rf"\.{rpc}\(")
    callers = [
        file
        for file in python_files("tests")
        if "fake_services" not in file.parts and call.search(file.read_text(encoding="utf-8"))
    ]
    assert callers, f"no test calls {service}.{rpc}"


def member_names(kind: type[IntEnum]) -> dict[str, int]:
    return {member.name: int(member) for member in kind if member}


def proto_names(kind) -> dict[str, int]:
    """Return the numbers of an enum of the contracts by name, without the prefix and what is unspecified."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.DESCRIPTOR.name).upper() + "_"
    return {name.removeprefix(prefix): number for name, number in kind.items() if number}


@pytest.mark.parametrize("kind", ENUMS)
def test_the_domains_enums_have_the_contracts_numbers(kind):
    assert member_names(kind) == proto_names(ENUMS[kind])


def test_every_enum_of_the_domain_is_held_to_the_contracts():
    own = {kind for kind in vars(domain).values() if isinstance(kind, type) and issubclass(kind, IntEnum)}
    assert own - {IntEnum} <= set(ENUMS)


def undocumented(file: FileDescriptorProto) -> Iterator[str]:
    """Give the fields that hold a value (not a message) and whose comment names no owner."""
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def of(message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[str]:
        for number, field in enumerate(message.field):
            comment = comments.get((*path, 2, number), "")
            if field.type != FieldDescriptorProto.TYPE_MESSAGE and "Owner: " not in comment:
                yield f"{name}.{field.name}"
        for number, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from of(nested, (*path, 3, number), f"{name}.{nested.name}")

    for number, message in enumerate(file.message_type):
        yield from of(message, (4, number), message.name)


def test_every_value_on_the_wire_has_an_owner():
    assert [field for file in contracts().file for field in undocumented(file)] == []


def test_generated_modules_are_those_of_the_contracts():
    generated = {file.name.removesuffix("_pb2.py") for file in (ROOT / "liger" / "v1").glob("*_pb2.py")}
    assert generated == {file.name.rpartition("/")[2].removesuffix(".proto") for file in contracts().file}
    assert isinstance(types_pb2, ModuleType)
