"""Plans, timelines and profiles as text, as SVG and as traces: pure functions of plain values.

Reading map: `lanes_text` and `lanes_svg` (planned lanes as a Gantt chart), `plan` (what a plan comes to), `profile`
and `curves` (durations over sizes), `trace` (what ran, for Perfetto), `axis` (where marks stand), `svg` (elements),
`names` (how batches and lanes are called).
"""
