from xml.etree import ElementTree as ET

from bench.link.picture import Panel, draw_curves

SVG = "{http://www.w3.org/2000/svg}"
CURVES = {"tensor": ((1.0, 0.1), (5.0, 0.3)), "interleaved": ((1.0, 0.1), (5.0, 0.2))}


def numbers(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in points.split())]


def test_every_strategy_has_a_line_that_rises_with_latency():
    picture = ET.fromstring(draw_curves([Panel(title="load", curves=CURVES)]))
    tensor, interleaved = (numbers(line.attrib["points"]) for line in picture.iter(f"{SVG}polyline"))
    assert tensor[0] == interleaved[0]
    assert tensor[1][0] == interleaved[1][0] > tensor[0][0]
    assert tensor[1][1] < interleaved[1][1] < tensor[0][1]  # upwards is towards 0
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"load", "tensor", "interleaved", "calls a second", "P90 latency in ms"} <= set(texts)


def test_all_points_lie_inside_their_panel():
    picture = ET.fromstring(
        draw_curves([Panel(title="one", curves=CURVES), Panel(title="two", curves=CURVES, crossing_rate=3.0)])
    )
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in picture.iter(f"{SVG}circle")]
    assert len(dots) == 8
    assert all(x < width / 2 for x, _ in dots[:4])
    assert all(width / 2 < x < width and 0 < y < height for x, y in dots[4:])
    assert "crossing at 3.0/s" in [text.text for text in picture.iter(f"{SVG}text")]


def test_one_point_is_enough_and_none_is_an_empty_picture():
    single = draw_curves([Panel(title="load", curves={"tensor": ((1.0, 0.1),)})])
    assert single.count("<circle") == 1
    empty = ET.fromstring(draw_curves([Panel(title="load", curves={})]))
    assert not list(empty.iter(f"{SVG}polyline"))
