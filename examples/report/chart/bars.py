"""Bars as an SVG image."""

HEIGHT = 24
WIDTH = 400


def draw(rows):
    """The image of `rows`: pairs of a name and a number."""
    most = max(number for _, number in rows)
    bars = [
        f'<rect x="120" y="{index * HEIGHT}" width="{WIDTH * number / most:.1f}" height="{HEIGHT - 4}"/>'
        f'<text x="0" y="{index * HEIGHT + 15}">{name}</text>'
        for index, (name, number) in enumerate(rows)
    ]
    body = "\n".join(bars)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 120}" height="{HEIGHT * len(rows)}">\n{body}\n</svg>\n'
