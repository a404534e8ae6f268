"""Tables in text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest entry; a row's last cell may be as long as it likes."""
    widths = [max(len(row[i]) for row in rows if i < len(row) - 1 or i == 0) for i in range(max(map(len, rows)) - 1)]
    widths = [*widths, 0] if widths else [0]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows)
