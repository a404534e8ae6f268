"""Draw faces, people and hands of the font Noto Color Emoji: a folder of pictures for each label."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image, ImageDraw, ImageFont, features

from anyres.cli import reporting_errors
from anyres.errors import BackendError, DataError
from anyres.files import make_folder, replacing

FONTS = (  # where distributions put it
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",  # Fedora
)
STRIKE = 109  # the one size in which the font holds its pictures: about 136 × 128 px
PAPER, MARGIN = 220, 24  # px, a side of what a glyph is drawn on, and left free above and before it
TONES = ("", *map(chr, range(0x1F3FB, 0x1F400)))  # no modifier, and those of five tones of skin
GENDERS = ("", "\u200d\u2640\ufe0f", "\u200d\u2642\ufe0f")  # as it is, a woman, a man
FACES = ((0x1F600, 0x1F637), (0x1F641, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F925), (0x1F927, 0x1F92F),
         (0x1F970, 0x1F976), (0x1F978, 0x1F97A), (0x1F9D0, 0x1F9D0), (0x1FAE0, 0x1FAE8))  # fmt: skip
# children, the old, brides, grooms, veils and beards have one form; police, guards, elves … three
PEOPLE = ((0x1F466, 0x1F469), (0x1F470, 0x1F470), (0x1F472, 0x1F472), (0x1F474, 0x1F476), (0x1F9D1, 0x1F9D5))
PEOPLE_OF_GENDERS = ((0x1F46E, 0x1F46E), (0x1F471, 0x1F471), (0x1F473, 0x1F473), (0x1F477, 0x1F477),
                     (0x1F482, 0x1F482), (0x1F575, 0x1F575), (0x1F9B8, 0x1F9B9), (0x1F9D9, 0x1F9DD))  # fmt: skip
HANDS = ((0x261D, 0x261D), (0x270A, 0x270D), (0x1F446, 0x1F450), (0x1F4AA, 0x1F4AA), (0x1F590, 0x1F590),
         (0x1F596, 0x1F596), (0x1F64C, 0x1F64C), (0x1F64F, 0x1F64F), (0x1F90C, 0x1F90C), (0x1F90F, 0x1F90F),
         (0x1F918, 0x1F91C), (0x1F91E, 0x1F91F))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the builder."""

    out: Path
    """Folder of the pictures: one folder a label."""
    font: Path | None = None
    """NotoColorEmoji.ttf; by default where distributions put it."""


def characters(ranges: tuple[tuple[int, int], ...]) -> list[str]:
    """Those of ranges of code points, both ends included."""
    return [chr(code) for first, last in ranges for code in range(first, last + 1)]


def texts() -> dict[str, list[str]]:
    """What is drawn, by label: a character and its modifiers each."""
    people = [one + tone for one in characters(PEOPLE) for tone in TONES]
    forms = [one + tone + form for one in characters(PEOPLE_OF_GENDERS) for tone in TONES for form in GENDERS]
    hands = [one + tone for one in characters(HANDS) for tone in TONES]
    return {"face": characters(FACES), "person": people + forms, "hand": hands}


def drawn(text: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """A glyph on white, as large as what is visible of it; None where the font does not draw it as one picture."""
    if font.getlength(text) != font.getlength("\U0001f600"):
        return None
    paper = Image.new("RGBA", (PAPER, PAPER))
    ImageDraw.Draw(paper).text((MARGIN, MARGIN), text, font=font, embedded_color=True)
    box = paper.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        return None
    cut = paper.crop(box)
    picture = Image.new("RGB", cut.size, "white")
    picture.paste(cut, mask=cut.getchannel("A"))
    return picture


def opened(path: Path | None) -> ImageFont.FreeTypeFont:
    """The font.

    Raises:
        BackendError: Pillow cannot put several characters together to one picture.
        DataError: the font is not there, or has other pictures.
    """
    if not features.check("raqm"):
        raise BackendError(
            "this Pillow was built without raqm, which puts characters and their modifiers together",
            wanted="Pillow's wheel from PyPI, with the library fribidi beside it",
            fix="pip install --force-reinstall pillow; apt-get install libfribidi0, or what your system calls it",
        )
    found = path or next((Path(place) for place in FONTS if Path(place).is_file()), None)
    if found is None:
        raise DataError(
            "the font Noto Color Emoji was not found",
            wanted="it installed, or --font FILE",
            fix="apt-get install fonts-noto-color-emoji, or what your system calls it",
        )
    try:
        return ImageFont.truetype(str(found), STRIKE)
    except OSError as error:
        raise DataError(
            f"the font {found} cannot be used: {error}",
            wanted="NotoColorEmoji.ttf with pictures in it (CBDT)",
            fix="use the one of your distribution",
        ) from error


def build(options: Options) -> str:
    """Draw and write all pictures; returns what to print.

    Raises:
        BackendError: see `opened`.
        DataError: see `opened`; or the disk refuses.
    """
    font, lines = opened(options.font), []
    for label, of_label in texts().items():
        folder, seen = make_folder(options.out / label), set[bytes]()
        for text in of_label:
            picture = drawn(text, font)
            if picture is None or picture.tobytes() in seen:  # a font may have one picture for several
                continue
            seen.add(picture.tobytes())
            with replacing(folder / f"{'-'.join(f'{ord(one):x}' for one in text)}.webp") as temporary:
                picture.save(temporary, "WEBP", quality=85, method=6)
        lines.append(f"{label:<8}{len(seen)} pictures in {folder}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and build; returns the exit status."""

    def work() -> int:
        print(build(tyro.cli(Options, prog="build.py", description=__doc__, args=arguments)))
        return 0

    return reporting_errors("build.py", work)


if __name__ == "__main__":
    sys.exit(main())
