"""The panel of the depthwise step: every channel in a lane of its own."""

from __future__ import annotations

from dataclasses import dataclass

from ..cost import separable_cost
from ..geometry import Geometry
from .arithmetic import channels, plural, product, steps
from .layout import CAPTION, HEADING, MARGIN, Columns, Panel, caption, convolved, end_widths, heading, sides
from .solids import SLANT_X, SLANT_Y, Solid
from .svg import SOFT_INK, Point, arrow, text, text_width
from .volumes import HUES, SHOWN, Volumes, volume

FAN = 43.0
SIGN = 22.0
# More room for a thing or its legend than it fills.
PAD = 16.0
LEAST_LANE = 44.0
BETWEEN_LANES = 26.0
ELLIPSIS = 30.0
COPIES = 3
# From one kernel of a channel to the next, along the depth.
CARD = 16.0
# Between the ends of two channels' arrows at the whole volume.
MEETING = 14.0


@dataclass(frozen=True, slots=True)
class Deck:
    """The kernels of one channel, one behind the other, the first few of many."""

    kernels: tuple[Solid, ...]

    @classmethod
    def of(cls, volumes: Volumes, channel: int) -> Deck:
        copies = min(volumes.g.depth_multiplier, COPIES)
        return cls(tuple(volumes.depthwise_kernel(channel, copy) for copy in range(copies)))

    @property
    def step(self) -> float:
        return self.kernels[0].depth + CARD

    @property
    def extent(self) -> tuple[float, float]:
        wide, high = self.kernels[0].extent
        behind = self.step * (len(self.kernels) - 1)
        return wide + SLANT_X * behind, high + SLANT_Y * behind

    def draw(self, center: Point) -> str:
        wide, high = self.extent
        one_wide, one_high = self.kernels[0].extent
        x, y = center[0] - wide / 2 + one_wide / 2, center[1] + high / 2 - one_high / 2
        behind = [(kernel, self.step * index) for index, kernel in enumerate(self.kernels)]
        return "".join(kernel.draw((x + SLANT_X * z, y - SLANT_Y * z)) for kernel, z in reversed(behind))


@dataclass(frozen=True, slots=True)
class Lane:
    """One channel's way: its slice of the input, its kernels, what they make."""

    first: Solid
    deck: Deck
    last: Solid

    @classmethod
    def of(cls, volumes: Volumes, channel: int) -> Lane:
        return cls(volumes.input_channel(channel), Deck.of(volumes, channel), volumes.middle_channel(channel))

    @property
    def height(self) -> float:
        return max(self.first.extent[1], self.deck.extent[1], self.last.extent[1], LEAST_LANE)


@dataclass(frozen=True, slots=True)
class Legend:
    """The lines under the lanes' things: sizes, counts and the whole price."""

    first: str
    kernel: str
    kernels: str
    last: str
    formula: str
    result: str

    @classmethod
    def of(cls, g: Geometry) -> Legend:
        _, step, _ = steps(g)
        return cls(
            volume((1, *g.input_size[1:])),
            volume(step.kernel_size),
            plural(step.kernels, "kernel"),
            volume((g.depth_multiplier, *g.out_spatial)),
            step.formula,
            f"= {step.cost.multiplications:,} multiplications",
        )


@dataclass(frozen=True, slots=True)
class Slots:
    """How much room each thing of a lane has: its own width, or its legend's."""

    first: float
    deck: float
    arrow: float
    last: float

    @classmethod
    def of(cls, lane: Lane, legend: Legend, g: Geometry) -> Slots:
        return cls(
            max(lane.first.extent[0] + PAD, _room(legend.first, "one channel")),
            max(lane.deck.extent[0] + PAD, _room(legend.kernel, legend.kernels)),
            _room(legend.formula, legend.result, _price(g)),
            max(lane.last.extent[0] + PAD, _room(legend.last, "of that channel")),
        )

    @property
    def width(self) -> float:
        return self.first + self.deck + self.arrow + self.last


@dataclass(frozen=True, slots=True)
class Stops:
    """Where the things of a lane are drawn, left to right."""

    fan: tuple[float, float]
    first: float
    sign: float
    deck: float
    arrow: tuple[float, float]
    last: float
    stack: tuple[float, float]

    @classmethod
    def of(cls, volumes: Volumes, lane: Lane, slots: Slots, columns: Columns) -> Stops:
        fan = sides(volumes.input(), columns.first)[1] + 6
        stack = sides(volumes.middle(), columns.last)[0] - 6
        first = fan + FAN + slots.first / 2
        deck = fan + FAN + slots.first + SIGN + slots.deck / 2
        last = stack - FAN - slots.last / 2
        sign = (sides(lane.first, first)[1] + deck - lane.deck.extent[0] / 2) / 2
        arrow_ends = deck + slots.deck / 2, last - slots.last / 2
        out, back = sides(lane.first, first)[0] - 6, sides(lane.last, last)[1] + 6
        return cls((fan, out), first, sign, deck, arrow_ends, last, (back, stack))


def least_width(volumes: Volumes) -> float:
    lane = Lane.of(volumes, 0)
    slots = Slots.of(lane, Legend.of(volumes.g), volumes.g)
    return 2 * MARGIN + sum(end_widths(volumes)) + slots.width + 2 * (FAN + 6) + SIGN


def depthwise_panel(volumes: Volumes, columns: Columns) -> Panel:
    g, legend = volumes.g, Legend.of(volumes.g)
    lanes = [Lane.of(volumes, channel) for channel in range(min(g.in_channels, SHOWN))]
    stops = Stops.of(volumes, lanes[0], Slots.of(lanes[0], legend, g), columns)
    pitch = lanes[0].height + BETWEEN_LANES
    others = g.in_channels - len(lanes)
    below = len(lanes) * pitch - BETWEEN_LANES + (ELLIPSIS if others else 0)
    height = max(below, volumes.input().extent[1], volumes.middle().extent[1])
    center, bottom = HEADING + height / 2, HEADING + height
    top = center - below / 2
    parts = [_title(g, columns.width)]
    for channel, lane in enumerate(lanes):
        y = top + channel * pitch + lane.height / 2
        meet = center + MEETING * (channel - (len(lanes) - 1) / 2)
        parts += [_lane(volumes, lane, channel, stops, y), *_fans(channel, stops, meet, y)]
    if others:
        middle = (stops.first + stops.last) / 2
        parts.append(text((middle, bottom - 4), f"⋮   and so for {channels(others)} more", bold=True, fill=SOFT_INK))
    parts += [volumes.input().draw((columns.first, center)), volumes.middle().draw((columns.last, center))]
    return Panel("".join([*parts, *_captions(g, legend, stops, columns, bottom + 24)]), height + HEADING + CAPTION)


def _title(g: Geometry, width: float) -> str:
    each = "one kernel" if g.depth_multiplier == 1 else f"{g.depth_multiplier} kernels"
    sentence = (
        "Every colour keeps to itself: what comes out of a channel has seen that channel of the input and no other."
    )
    return heading(f"Separable, step 1, depthwise: {each} for each channel", sentence, width)


def _lane(volumes: Volumes, lane: Lane, channel: int, stops: Stops, y: float) -> str:
    start, end = stops.arrow
    room, middle = end - start, (start + end) / 2
    return "".join(
        [
            lane.first.draw((stops.first, y)),
            convolved(stops.sign, y),
            lane.deck.draw((stops.deck, y)),
            arrow([(start, y), (end, y)], color=HUES[channel]),
            text((middle, y - 9), f"channel {channel + 1}", size=12.5, fill=SOFT_INK, room=room),
            text((middle, y + 20), _price(volumes.g), size=12.5, room=room),
            lane.last.draw((stops.last, y)),
        ]
    )


def _price(g: Geometry) -> str:
    """The multiplications of one channel."""
    copies = (g.depth_multiplier,) if g.depth_multiplier > 1 else ()
    each = separable_cost(g).depthwise.multiplications // g.in_channels
    return f"{product(*copies, g.kernel_size, g.out_spatial)} = {each:,}"


def _fans(channel: int, stops: Stops, meet: float, y: float) -> list[str]:
    (a, b), (c, d) = stops.fan, stops.stack
    return [arrow(way, color=HUES[channel]) for way in ([(a, meet), (b, y)], [(c, y), (d, meet)])]


def _captions(g: Geometry, legend: Legend, stops: Stops, columns: Columns, y: float) -> list[str]:
    middle = (stops.arrow[0] + stops.arrow[1]) / 2
    return [
        caption((columns.first, y), volume(g.input_size), "input"),
        caption((stops.first, y), legend.first, "one channel"),
        caption((stops.deck, y), legend.kernel, legend.kernels),
        text((middle, y), legend.formula),
        text((middle, y + 18), legend.result, bold=True),
        caption((stops.last, y), legend.last, "of that channel"),
        caption((columns.last, y), volume(g.depthwise_size), "stacked again"),
    ]


def _room(*lines: str) -> float:
    return max(text_width(line, 13) for line in lines) + PAD
