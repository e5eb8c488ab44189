"""Small boards: what is needed to say which models suit them.

Knows: names, memory sizes, processor and memory speed of boards, as their makers publish them. Does not know:
how a board is told from another one at run time (`edge_runtime.device`), or any model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from model_zoo.errors import UnknownBoardError

__all__ = ["BOARDS", "Board", "board_named", "usual_memory"]


@dataclass(frozen=True, slots=True)
class Board:
    """A kind of board. `memory_gib`: the sizes it is sold with. `bandwidth`: peak of its memory, bytes/s."""

    name: str
    title: str
    memory_gib: tuple[float, ...]
    cores: int
    cpu: str
    bandwidth: float

    @property
    def variants(self) -> tuple[str, ...]:
        """Its names with a memory size: `pi5-4gb`; boards of one size have none."""
        if len(self.memory_gib) == 1:
            return (self.name,)
        return tuple(f"{self.name}-{size:g}gb" for size in self.memory_gib)


# Memory: the makers' product pages. Peak bandwidth: transfers per second × width of the bus, from the memory
# type that the product briefs name (LPDDR2-900, LPDDR4-3200 and LPDDR4X-4267, each 32 bits wide, on Raspberry
# Pi) and from NVIDIA's module data sheets. A board of several sizes has the lowest of their figures (the 8 GB
# module of the Orin Nano has twice as many bytes per second and more in its "Super" mode).
BOARDS: Mapping[str, Board] = {
    board.name: board
    for board in (
        Board("pi-zero-2", "Raspberry Pi Zero 2 W", (0.5,), 4, "Cortex-A53", 3.6e9),
        Board("pi3", "Raspberry Pi 3", (1,), 4, "Cortex-A53", 3.6e9),
        Board("pi4", "Raspberry Pi 4", (1, 2, 4, 8), 4, "Cortex-A72", 12.8e9),
        Board("pi5", "Raspberry Pi 5", (2, 4, 8, 16), 4, "Cortex-A76", 17.1e9),
        Board("orin-nano", "Jetson Orin Nano", (4, 8), 6, "Cortex-A78AE", 34e9),
        Board("orin-nx", "Jetson Orin NX", (8, 16), 8, "Cortex-A78AE", 102.4e9),
        Board("agx-orin", "Jetson AGX Orin", (32, 64), 12, "Cortex-A78AE", 204.8e9),
    )
}
"""By name."""


def board_named(name: str) -> tuple[Board, float]:
    """A board and its memory in GiB from `pi5` (then the least it is sold with) or `pi5-8gb`.

    Raises:
        UnknownBoardError: no such board or size; names the nearest ones.
    """
    wanted = name.strip().lower()
    for board in BOARDS.values():
        if wanted == board.name:
            return board, board.memory_gib[0]
        for size, variant in zip(board.memory_gib, board.variants, strict=True):
            if wanted == variant:
                return board, size
    known = [variant for board in BOARDS.values() for variant in board.variants]
    near = [v for v in known if v.startswith(wanted)] or difflib.get_close_matches(wanted, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise UnknownBoardError(f"{name}: no board of that name; {hint}")


def usual_memory(gib: float) -> int:
    """Bytes that a program can count on where nothing else runs, of a memory of so many GiB.

    An estimate for a system without a desktop: the kernel and the graphics processor keep some 15 %, the
    services of the system 128 MiB. The real figure of a device is its `MemAvailable`.
    """
    return max(0, int(gib * (1 << 30) * 0.85) - (128 << 20))
