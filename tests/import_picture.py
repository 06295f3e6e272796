"""Draws the imports of the package: `python -m tests.import_picture` writes docs/img/imports.svg.

A room is drawn above all that it imports. An arrow that follows from others is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where the tests' own modules are

from imports import PACKAGE, WHEN_CALLED, read_imports

PICTURE = PACKAGE.parent / "docs" / "img" / "imports.svg"

Edge = tuple[str, str]
Spot = tuple[float, float]

_WIDTH, _ROW, _BOX, _LETTER, _GAP = 820, 64, 24, 7.4, 14
_BEND = 12  # room of an arrow that passes a row of boxes
_SWEEPS = 12
_NAMES = {"__init__": "tvmlayers", "__main__": "python -m tvmlayers"}


def imports() -> set[Edge]:
    """(importer, imported) for all rooms and modules at the top of the package."""
    return {
        (found.importer, found.imported)
        for found in read_imports()
        if found.is_ours and found.importer != found.imported
    }


def needed(edges: Iterable[Edge]) -> set[Edge]:
    """The edges that do not follow from others; ValueError where there is a circle."""
    edges = set(edges)
    below: dict[str, set[str]] = {}
    for name in _in_order(edges):
        direct = {to for at, to in edges if at == name}
        below[name] = direct.union(*(below[each] for each in direct))
    return {
        (at, to)
        for at, to in edges
        if not any(to in below[each] for start, each in edges if start == at)
    }


def _in_order(edges: set[Edge]) -> list[str]:
    """All names, each behind those that it imports."""
    left = sorted({name for edge in edges for name in edge})
    done: list[str] = []
    while left:
        ready = [name for name in left if all(to in done for at, to in edges if at == name)]
        if not ready:
            raise ValueError(f"a circle of imports among {', '.join(left)}")
        done += ready
        left = [name for name in left if name not in ready]
    return done


def picture() -> str:
    """The picture, as SVG."""
    edges = needed(imports() - WHEN_CALLED)
    rows, paths = _rows(edges)
    spots = {name: spot for place, row in enumerate(rows) for name, spot in _spots(row, place)}
    top = max(y for _, y in spots.values()) + _ROW
    spots = {name: (x, top - y) for name, (x, y) in spots.items()}
    height = top + 2 * _BOX
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#666"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    lines += [_arrow([spots[each] for each in path]) for path in paths]
    lines += [_arrow([spots[at], spots[to]], ' stroke-dasharray="4 3"') for at, to in _exceptions()]
    lines += [_box(name, *spots[name]) for name in sorted(spots) if "/" not in name]
    note = "; ".join(f"{at} imports {to} only when it is called" for at, to in _exceptions())
    lines.append(f'<text x="8" y="{height - 12}" fill="#333">dashed: {note}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _exceptions() -> list[Edge]:
    return sorted(WHEN_CALLED)


def _rows(edges: set[Edge]) -> tuple[list[list[str]], list[list[str]]]:
    """(names from the lowest row up, the names that each arrow passes), ordered so that few arrows
    cross. A name with a "/" is a bend of an arrow that passes a row."""
    rank: dict[str, int] = {}
    for name in _in_order(edges):
        rank[name] = max((rank[to] + 1 for at, to in edges if at == name), default=0)
    paths = []
    for at, to in sorted(edges):
        bends = [f"{at}/{to}/{place}" for place in range(rank[at] - 1, rank[to], -1)]
        rank |= {bend: int(bend.rpartition("/")[2]) for bend in bends}
        paths.append([at, *bends, to])
    rows = [sorted(n for n in rank if rank[n] == place) for place in range(max(rank.values()) + 1)]
    steps = [step for path in paths for step in pairwise(path)]
    for sweep in range(_SWEEPS):
        upwards = sweep % 2 == 0
        for place in range(1, len(rows)) if upwards else range(len(rows) - 2, -1, -1):
            fixed = {name: x for name, (x, _) in _spots(rows[place + (-1 if upwards else 1)], 0)}
            own = {name: x for name, (x, _) in _spots(rows[place], 0)}
            near: dict[str, list[float]] = {name: [] for name in rows[place]}
            for upper, lower in steps:
                moved, other = (upper, lower) if upwards else (lower, upper)
                if moved in near:
                    near[moved].append(fixed[other])
            means = {n: sum(xs) / len(xs) if xs else own[n] for n, xs in near.items()}
            rows[place].sort(key=lambda name, means=means: (means[name], name))
    return rows, paths


def _spots(row: list[str], place: int) -> list[tuple[str, Spot]]:
    """The middle of each name of a row, spread over the width."""
    widths = [_BEND if "/" in name else _width(name) for name in row]
    gap = (_WIDTH - sum(widths)) / (len(row) + 1)
    x, found = 0.0, []
    for name, width in zip(row, widths, strict=True):
        x += gap
        found.append((name, (round(x + width / 2, 1), float(place * _ROW))))
        x += width
    return found


def _width(name: str) -> float:
    return len(_NAMES.get(name, name)) * _LETTER + _GAP


def _arrow(spots: list[Spot], more: str = "") -> str:
    """A smooth line from the edge of the first box to that of the last."""
    way = 1 if spots[-1][1] > spots[0][1] else -1
    points = [(x, y) for x, y in spots]
    points[0] = (points[0][0], points[0][1] + way * _BOX / 2)
    points[-1] = (points[-1][0], points[-1][1] - way * _BOX / 2)
    drawn = f"M{points[0][0]:g} {points[0][1]:g}"
    for (x, y), (u, v) in pairwise(points):
        middle = (y + v) / 2
        drawn += f"C{x:g} {middle:g} {u:g} {middle:g} {u:g} {v:g}"
    return f'<path d="{drawn}" fill="none" stroke="#666" marker-end="url(#to)"{more}/>'


def _box(name: str, x: float, y: float) -> str:
    width = _width(name)
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y - _BOX / 2:g}" width="{width:.1f}" '
        f'height="{_BOX}" rx="4" fill="#eef3f8" stroke="#336"/>'
        f'<text x="{x:g}" y="{y + 4.5:g}" text-anchor="middle">{_NAMES.get(name, name)}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
