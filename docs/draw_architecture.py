"""Draw docs/pictures/architecture.png from the imports of the code: `python docs/draw_architecture.py [FILE]`.

Rooms are the rows of the table in docs/architecture.md, highest first. An import runs from the importing room to the left, then
down to the imported one; the number counts pairs of modules. An import that goes up is red, on the other side of the boxes.
"""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "pictures" / "architecture.png"
BOX, LINE, UP = "#0072b2", "#9aa5b1", "#d55e00"


def rooms() -> list[str]:
    """Folders of the page's first table, lowest first."""
    return re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(encoding="utf-8"), re.M)[::-1]


def imported(path: Path) -> set[str]:
    """Modules that a file names in `import` and `from` statements, those inside functions included."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def count_imports(names: list[str]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Files of each room, and (importing room, imported room) -> pairs of modules."""
    files: Counter[str] = Counter()
    imports: Counter[tuple[str, str]] = Counter()
    for room in names:
        for path in (ROOT / room).rglob("*.py"):
            files[room] += path.name != "__init__.py"
            for module in imported(path):
                other = module.partition(".")[0]
                if other in names and other != room:
                    imports[room, other] += 1
    return files, imports


def draw(target: Path) -> None:
    """Boxes on a diagonal, highest room at the top right."""
    names = rooms()
    files, imports = count_imports(names)
    place = {room: number for number, room in enumerate(names)}
    figure, axes = pyplot.subplots(figsize=(9, 5.8), dpi=110)
    for (room, other), count in imports.items():
        x, y = place[other], place[room]
        colour = LINE if x < y else UP
        axes.plot([y, x], [y, y], color=colour, linewidth=1, zorder=1)
        axes.annotate("", (x, x + (0.45 if x < y else -0.45)), (x, y), zorder=1,
                      arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0})  # fmt: skip
        axes.text(x, y, count, ha="center", va="center", fontsize=9, zorder=2,
                  bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour})  # fmt: skip
    for room, number in place.items():
        axes.text(number, number, f"{room}\n{files[room]} files", ha="center", va="center", fontsize=9, color="white",
                  zorder=3, bbox={"boxstyle": "round,pad=0.3", "facecolor": BOX, "edgecolor": "none"})  # fmt: skip
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(-0.5, len(names) - 0.5))
    axes.axis("off")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
