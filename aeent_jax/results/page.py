"""The parts of a self-contained HTML page: text, tables, figures.

Functions take plain text, escape it and return HTML. A page holds its style
and its figures, and refers to nothing outside.
"""

import html
import re
from collections.abc import Mapping, Sequence

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fdfdfb; --ink: #1f2328; --muted: #6e7781; --normal: #8c959f;
  --rule: #d8d8d2; --accent: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16181b; --ink: #e4e4df; --muted: #9aa1a9; --normal: #a9b1ba;
    --rule: #35393f; --accent: #f0894a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.25rem 5rem; max-width: 56rem;
  background: var(--ground); color: var(--ink);
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria,
    Georgia, serif;
}
p, dl, ul, figcaption, summary { max-width: 40rem; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; font-weight: 600; }
h2 { margin: 3.25rem 0 .5rem; font-size: 1.3rem; font-weight: 600; }
.byline { margin: .35rem 0 2rem; color: var(--muted); }
.verdict { font-size: 1.2rem; line-height: 1.55; }
.note { padding-left: .9rem; border-left: 3px solid var(--accent); }
table, figure text, svg text, summary, .byline, small {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1rem .4rem 0; text-align: right;
  vertical-align: baseline; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal;
  min-width: 12.5rem; }
table.text th, table.text td { text-align: left; white-space: normal; }
thead th { font-weight: 600; font-size: .8rem; white-space: normal;
  vertical-align: bottom; border-bottom: 1px solid var(--ink); }
tbody td { border-bottom: 1px solid var(--rule); }
tbody tr.quiet td { color: var(--muted); }
td small { display: block; color: var(--muted); font-size: .78rem; }
figure { margin: 1.25rem 0; }
figcaption, .caption { color: var(--muted); font-size: .92rem;
  line-height: 1.5; }
svg { display: block; overflow: visible; max-width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto,
  sans-serif !important; }
dt { font-weight: 600; margin-top: .9rem; }
dd { margin: 0; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--muted); font-size: .9rem; }
@media print { body { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; } }
"""


def page(title: str, byline: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
      title: Heading and window title, plain text.
      byline: One line below it, plain text.
      parts: HTML from the functions below.

    Returns:
      The document.
    """
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="byline">{html.escape(byline)}</p>
{body}
</body>
</html>
"""


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is "", "verdict", "note" or "caption"."""
    attribute = f' class="{html.escape(kind)}"' if kind else ""
    return f"<p{attribute}>{_escaped(text)}</p>"


def figure(svg: str, description: str, caption: str) -> str:
    """A figure with its caption; the description is read aloud."""
    label = html.escape(description, quote=True)
    image = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return (
        f'<figure><div class="wide">{image}</div>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    num_quiet: int = 0,
    text: bool = False,
) -> str:
    """A table.

    Args:
      header: Names of the columns.
      rows: Cells. What stands in brackets at the end of a cell, an interval,
        is set small below its value.
      num_quiet: How many of the last rows are set in grey.
      text: Whether cells are text, set to the left, and not numbers.

    Returns:
      HTML that scrolls by itself where the window is narrow.
    """
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = []
    for index, row in enumerate(rows):
        quiet = ' class="quiet"' if index >= len(rows) - num_quiet else ""
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row)
        lines.append(f"<tr{quiet}>{cells}</tr>")
    kind = ' class="text"' if text else ""
    return (
        f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def definitions(entries: Mapping[str, str]) -> str:
    """A list of terms and what they mean."""
    items = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(meaning)}</dd>"
        for term, meaning in entries.items()
    )
    return f"<dl>{items}</dl>"


def folded(summary: str, content: str) -> str:
    """HTML that is shown on a click."""
    return (
        f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
    )


def _cell(text):
    value, bracket, rest = text.partition(" [")
    if bracket and rest.endswith("]"):
        return f"{_escaped(value)} <small>[{_escaped(rest)}</small>"
    return _escaped(text)


def _escaped(text):
    """Escaped text, with a minus sign before numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", html.escape(text))
