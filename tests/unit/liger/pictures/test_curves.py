from xml.etree import ElementTree as ET

from liger.domain import BatchKind
from liger.pictures.curves import Curve, curves_svg
from liger.pictures.profile import profile_curves
from liger.profile import ProfileTable, SegmentSample
from tests.support.plans import ALL_REDUCE, ATTENTION, small_profile

SVG = "{http://www.w3.org/2000/svg}"


def picture(curves):
    return ET.fromstring(curves_svg(curves, title="durations", x_label="tokens", y_label="ms"))


def test_a_profile_has_a_line_a_kind_in_milliseconds():
    found = {curve.name: curve.points for curve in profile_curves(small_profile().table)}
    assert found == {
        "all-reduce": ((128.0, 2.0), (256.0, 4.0)),
        "encode mlp": ((128.0, 3.0), (256.0, 6.0)),
        "decode attention, 64 behind": ((1.0, 0.25),),
        "decode attention, 512 behind": ((1.0, 0.5),),
    }


def test_what_took_no_measurable_time_has_no_place_on_a_logarithmic_axis():
    samples = [
        SegmentSample(batch=None, segment=ALL_REDUCE, num_tokens=tokens, context=0, duration_ns=duration_ns)
        for tokens, duration_ns in ((1, 0), (2, 5_000_000))
    ]
    table = ProfileTable(key="k", activation_bytes=1, segments=tuple(samples))
    assert [curve.points for curve in profile_curves(table)] == [((2.0, 5.0),)]


def test_contexts_between_the_least_and_the_most_are_left_out_of_the_picture():
    samples = [
        SegmentSample(batch=BatchKind.DECODE, segment=ATTENTION, num_tokens=1, context=context, duration_ns=1000)
        for context in (0, 64, 512)
    ]
    table = ProfileTable(key="k", activation_bytes=1, segments=tuple(samples))
    assert [curve.name for curve in profile_curves(table)] == ["decode attention", "decode attention, 512 behind"]


def test_equal_steps_of_a_factor_are_equal_steps_in_the_picture():
    points = [(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)]
    root = picture([Curve(name="straight", points=tuple(points))])
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]
    assert places[1][0] - places[0][0] == places[2][0] - places[1][0] > 0
    assert places[1][1] - places[0][1] == places[2][1] - places[1][1] < 0


def test_curves_beyond_the_colours_are_told_apart_by_dashes():
    root = picture([Curve(name=f"{number} <&>", points=((1.0, 2.0),)) for number in range(20)])
    lines = {(line.attrib["stroke"], line.attrib["stroke-dasharray"]) for line in root.iter(f"{SVG}polyline")}
    assert len(lines) == 20
