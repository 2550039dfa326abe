"""Labels of points that overprint neither each other nor points and lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 7  # points of the font
NEAR = 6  # from a point to its label
FAR_AWAY = 14  # a label further from its point gets a line to it


def place_labels(
    axes: "Axes", labels: Sequence[tuple[float, float, str, bool]], points: Sequence[tuple[float, float]], colour: str
) -> None:
    """Write labels (x, y, text, bold) beside their points, each in the nearest free place. The axes are laid out, and
    have every point and line already."""
    from matplotlib.transforms import Bbox

    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in axes.transData.transform(list(points))]
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    for x, y, text, bold in sorted(labels, key=lambda label: (label[1], label[0])):
        written = axes.annotate(
            text, (x, y), textcoords="offset points", xytext=(0, 0), fontsize=SIZE, color=colour,
            fontweight="bold" if bold else "normal", va="center",
        )  # fmt: skip
        for place in _places():
            written.set_horizontalalignment("left" if place[0] >= 0 else "right")
            written.set_position(place)
            box = written.get_window_extent().expanded(1.02, 1.1)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            inside = inside and axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            crossed = any(line.intersects_bbox(box, filled=False) for line in lines)
            if inside and not crossed and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        if max(map(abs, place)) > FAR_AWAY:
            arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 1, "shrinkB": 4}
            axes.annotate("", (x, y), textcoords="offset points", xytext=place, arrowprops=arrow)


def _places() -> list[tuple[int, int]]:
    """Offsets in points, the nearest first."""
    found = [(across, up) for across in (NEAR, -NEAR, 2 * NEAR, -2 * NEAR) for up in range(-60, 61, 4)]
    return sorted(found, key=lambda place: (abs(place[0]) + abs(place[1]), place[0] < 0, place[1] < 0))
