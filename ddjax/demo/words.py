"""Words of the page as HTML: the gallery, the clocks, progress, errors."""

from collections.abc import Sequence
from html import escape

from ddjax.demo import png
from ddjax.demo.drawing import MAP, Row

# Characters of a caption over a column.
TITLE = 60


def gallery(rows: Sequence[Row], total: int, drawing: str = "") -> str:
    """A table: a row for each method, the teacher's map first, a column for each noise draw.

    Args:
      rows: what was drawn.
      total: how many rows there will be; a link to a zip of all images comes with the last.
      drawing: the method that is being drawn.
    """
    below = progress(len(rows), total, drawing)
    if not rows:
        return below
    heads = "".join(
        f'<th scope="col" title="{escape(title)}">{escape(_short(title))}</th>'
        for title in rows[0].out.titles
    )
    rows = sorted(rows, key=lambda row: row.method != MAP.name)
    exact = rows[0] if rows[0].method == MAP.name else None
    files = [_files(row) for row in rows]
    body = "".join(_row(row, drawn, exact) for row, drawn in zip(rows, files, strict=True))
    if len(rows) == total:
        url = png.data_url(
            png.archive({k: v for drawn in files for k, v in drawn.items()}), "application/zip"
        )
        below = (
            f'<p><a class="dd-button" download="ddjax-seed{rows[0].about[0]["call"]["seed"]}.zip" '
            f'href="{url}">Download all as PNG (zip)</a> '
            "<span class=\"dd-note\">or click an image. Each column is one noise draw.</span></p>"
        )
    return (
        '<div class="dd-scroll" tabindex="0" role="region" aria-label="Images by method">'
        f'<table class="dd-gallery"><thead><tr><th scope="col">method</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{below}"
    )


def _files(row: Row) -> dict[str, bytes]:
    """The PNGs of a row by file name."""
    return {
        png.file_name(about): png.encoded(image, about)
        for image, about in zip(row.out.pil(), row.about, strict=True)
    }


def _row(row: Row, files: dict[str, bytes], exact: Row | None) -> str:
    cells = "".join(
        f'<td><a download="{escape(name)}" href="{png.data_url(content)}" '
        f'aria-label="Download {escape(_alt(row, i))}">{image(content, _alt(row, i))}</a></td>'
        for i, (name, content) in enumerate(files.items())
    )
    return f'<tr><th scope="row">{figures(row, exact)}</th>{cells}</tr>'


def _alt(row: Row, i: int) -> str:
    return f"{row.out.titles[i]} by {row.method}, column {i + 1}"


def image(content: bytes, alt: str) -> str:
    """A PNG in the page."""
    return f'<img class="dd-image" src="{png.data_url(content)}" alt="{escape(alt)}">'


def figures(row: Row, exact: Row | None = None) -> str:
    """Name, time, passes of a method, and tokens equal to the map's where that was drawn."""
    passes = f"{row.passes} pass" + ("" if row.passes == 1 else "es")
    equal = f"<br>{row.equal(exact):.0%} of tokens equal the map's" if exact else ""
    return (
        f'<b>{escape(row.method)}</b><br><span class="dd-note">{row.milliseconds:.3g} ms an image, '
        f"{passes}{equal}</span>"
    )


def _short(title: str) -> str:
    return title if len(title) <= TITLE else title[: TITLE - 3] + "..."


def progress(done: int, total: int, what: str) -> str:
    """How far compiling and drawing are."""
    return (
        f'<p class="dd-note" role="status"><label>Drawing {escape(what)}, {done} of {total} done '
        f'<progress max="{total}" value="{done}"></progress></label></p>'
    )


def error(message: str) -> str:
    """What went wrong, in words."""
    return f'<p class="dd-error" role="alert">{escape(message)}</p>'


def status(message: str) -> str:
    """What is going on."""
    return f'<p class="dd-note" role="status">{escape(message)}</p>'


def clock(
    method: str, seconds: float | None = None, row: Row | None = None, slower: float = 0
) -> str:
    """One side of the comparison.

    Args:
      method: its name.
      seconds: since it began; None before.
      row: what it drew, once it has.
      slower: how many times slower it is shown again; 0 for not yet.
    """
    shown = row.out.seconds if row else seconds
    time = "waiting" if shown is None else f"{shown:.3f} s"
    images = "" if row is None else "".join(
        image(content, _alt(row, i)) for i, content in enumerate(_files(row).values())
    )
    style = f' style="--seconds:{row.out.seconds * slower:.2f}s"' if row and slower > 1 else ""
    below = f"<b>{escape(method)}</b>" if row is None else figures(row)
    return (
        f'<div class="dd-side{" dd-replay" if style else ""}"{style}>'
        f'<div class="dd-clock" role="timer">{time}</div><p>{below}</p>'
        f'<div class="dd-bar"><div></div></div><div class="dd-images">{images}</div></div>'
    )


def comparison(sides: Sequence[str], verdict: str = "") -> str:
    """Two clocks side by side, and what came of it."""
    return f'<div class="dd-sides">{"".join(sides)}</div><p role="status">{escape(verdict)}</p>'


def verdict(left: Row, right: Row, slower: float) -> str:
    """How many times as long the slower one took."""
    fast, slow = sorted((left, right), key=lambda row: row.out.seconds)
    again = f" Shown {slower} times slower." if slower > 1 else ""
    return (
        f"{slow.method} took {slow.out.seconds / fast.out.seconds:.1f} times as long as "
        f"{fast.method}.{again}"
    )


def frames(row: Row, k: int, groups: int) -> str:
    """X_k, an image for each column, with what it is."""
    what = (
        "all noise" if k == 0 else "the finished image" if k == groups
        else f"{k} of {groups} groups are tokens, the rest is still noise"
    )
    images = "".join(
        image(content, f"X_{k} of {_alt(row, i)}: {what}")
        for i, content in enumerate(_files(row).values())
    )
    return (
        f'<figure class="dd-frames"><div class="dd-images">{images}</div>'
        f"<figcaption>X<sub>{k}</sub>: {what}</figcaption></figure>"
    )
