"""A folder of colour images to try things out with: Google's Noto emoji, by their groups.

    apt-get install fonts-noto-color-emoji unicode-data
    python docs/emoji_folder.py runs/emoji_images

1,870 drawings of 136x136 pixels on white in nine folders: faces, people, animals, food, ...
Those that differ from another one in the tone of the skin alone are left out.
"""

import re
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LIST = "/usr/share/unicode/emoji/emoji-test.txt"
SIZE = 109  # the only one that the font has
TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}


def main(target: str) -> None:
    """Write a PNG for each emoji, named by its code points."""
    font, folder, count = ImageFont.truetype(FONT, SIZE), Path(target), 0
    for line in Path(LIST).read_text().splitlines():
        if group := re.match(r"# group: (.*)", line):
            folder = Path(target) / re.sub(r"\W+", "_", group[1].lower())
        codes, _, rest = line.partition(";")
        if not rest.strip().startswith("fully-qualified"):
            continue
        text = "".join(chr(int(code, 16)) for code in codes.split())
        if TONES & set(text):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (136, 136), "white")
        # One glyph is as wide as the image; more are a sequence that this font does not know.
        if font.getlength(text) <= image.width:
            ImageDraw.Draw(image).text((0, 4), text, font=font, embedded_color=True)
            image.save(folder / f"{'-'.join(codes.split())}.png")
            count += 1
    print(f"{count} images in {target}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: name the folder to make: python docs/emoji_folder.py FOLDER")
    for needed in (FONT, LIST):
        if not Path(needed).exists():
            sys.exit(f"error: {needed} is missing; install the two packages named above")
    main(sys.argv[1])
