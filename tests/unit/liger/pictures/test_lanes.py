from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from liger.pictures.axis import marks, powers, shown
from liger.pictures.lanes_svg import lanes_svg
from liger.pictures.lanes_text import lane_rows
from liger.pictures.plan import account
from tests.support.plans import ALL_REDUCE, ATTENTION, MLP, MS, span, two_batches

SVG = "{http://www.w3.org/2000/svg}"


def drawn(spans, width):
    return [row.plain for row in lane_rows(spans, width)]


def test_lanes_are_rows_and_batches_letters():
    assert drawn(two_batches().spans, 55) == [
        "compute        A=======B=======A###########b#####b#####",
        "communication  ........A~~~~~~~B~~~~~~~................",
        "ms             |0                  |10",
        "= attention  # mlp  ~ all-reduce  . idle  , mostly idle  small letter: a piece of a segment",
    ]


def test_every_stage_has_its_own_lanes():
    spans = (span(1, MLP, 0, 10), span(2, MLP, 10, 20, rank=1))
    assert drawn(spans, 43)[:4] == [
        "stage 0 compute        A#########..........",
        "stage 0 communication  ....................",
        "stage 1 compute        ..........B#########",
        "stage 1 communication  ....................",
    ]


def test_what_is_shorter_than_a_column_gives_way_to_what_fills_it():
    spans = (span(1, MLP, 0, 0.9), span(2, MLP, 0.9, 1.0), span(1, MLP, 1.0, 20))
    assert "B" not in drawn(spans, 0)[0]


def test_a_lane_that_is_mostly_idle_still_shows_what_runs():
    spans = (span(1, MLP, 0, 20), span(1, ALL_REDUCE, 4.1, 4.4), span(2, ALL_REDUCE, 8.0, 8.6))
    assert drawn(spans, 35)[1] == "communication  ....,...B..........."


def test_no_row_is_wider_than_it_may_be():
    for width in range(40, 140):
        assert {len(row) for row in drawn(two_batches().spans, width)[:2]} == {width}
        assert len(drawn(two_batches().spans, width)[2]) <= width


def test_more_batches_than_letters_are_drawn():
    spans = tuple(span(number, MLP, number, number + 1) for number in range(60))
    assert drawn(spans, 80)[0].startswith("compute")


def bars(picture):
    root = ET.fromstring(picture)
    return [bar for bar in root.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]


def test_the_picture_holds_a_bar_a_segment_at_its_time():
    found = bars(lanes_svg(two_batches().spans, "a plan"))
    assert len(found) == 7
    widths = [float(bar.attrib["width"]) for bar in found]
    assert widths[0] == pytest.approx(widths[1])  # 4 ms each
    assert widths[0] == pytest.approx(4 / 6 * widths[2], rel=1e-3)
    titles = [bar.find(f"{SVG}title").text for bar in found]
    assert titles[0] == "A encode 256: attention L0, 4.000 ms"
    assert "B encode 128: mlp L0 2/2, 3.000 ms" in titles


def test_a_title_cannot_break_the_picture():
    ET.fromstring(lanes_svg(two_batches().spans, '<m> & "n" \x00\ud800 \' ]]>'))


def test_a_plan_is_told_beside_its_batches_alone():
    plan = two_batches()
    told = account(plan, [replace(plan, serial_ns=14 * MS), replace(plan, serial_ns=13 * MS)])
    assert told.headline == "makespan 20.00 ms, serial (one after another) 28.00 ms: 1.40×"
    assert told.lanes == (
        "compute busy 100%, communication busy 40%, 100% of the hideable communication under another batch",
    )
    assert [(batch.name, batch.finish_ms, batch.alone_ms, batch.serial_ms) for batch in told.batches] == [
        ("A", 14.0, 14.0, 14.0),
        ("B", 20.0, 13.0, 27.0),
    ]


def test_a_batch_of_no_communication_says_nothing_of_hiding():
    plan = replace(two_batches(), spans=(span(1, ATTENTION, 0, 20),), finish_ns=(20 * MS,))
    assert account(plan, [plan]).lanes == ("compute busy 100%, communication busy 0%",)


def test_marks_are_round_and_not_too_many():
    for end in (0.0003, 0.7, 1.0, 19.9, 20.0, 12345.6):
        for most in (1, 5, 10):
            found = marks(end, most)
            assert found[0] == 0.0
            assert found[-1] <= end * (1 + 1e-6)
            assert len(found) <= most + 1
            assert len(set(shown(found))) == len(found)
    assert shown(marks(20.0, 4)) == ["0", "5", "10", "15", "20"]
    assert shown(marks(1.0, 5)) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_powers_of_ten_hold_the_values_between_them():
    assert powers(3.0, 250.0) == [1.0, 10.0, 100.0, 1000.0]
    assert powers(1.0, 100.0) == [1.0, 10.0, 100.0]
    assert powers(10.0, 10.0) == [10.0, 100.0]
    assert powers(0.002, 0.003) == [0.001, 0.01]
