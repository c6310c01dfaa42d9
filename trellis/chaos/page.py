"""One page to keep: what was broken when, the backlog, and the verdict. No script, no network, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from trellis.chaos.scenario import Options, Result, Scenario

WIDTH, HEIGHT = 720, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30

# Okabe and Ito's blue, vermilion, orange and green: colour-blind readers can tell them apart.
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #666; --grid: #ddd; --line: #0072b2;
        --band: #d55e0033; --edge: #d55e00; --good: #00805c; --bad: #b33e00; --void: #8a6100; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #111; --ink: #eee; --soft: #aaa; --grid: #3a3a3a; --line: #56b4e9; --band: #ff8c4d40;
          --edge: #ff8c4d; --good: #3ecf9f; --bad: #ff8c4d; --void: #e6b33d; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; } p { margin: .3rem 0; }
.soft { color: var(--soft); } .CLEAN { color: var(--good); } .VIOLATED { color: var(--bad); }
.VOID { color: var(--void); } b { font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.wide { overflow-x: auto; } svg { width: 100%; height: auto; max-width: 720px; }
svg text { fill: var(--soft); font-size: 11px; } svg .grid { stroke: var(--grid); }
svg .line { stroke: var(--line); fill: none; stroke-width: 2; } svg .band { fill: var(--band); }
svg .edge { stroke: var(--edge); } svg .mark { stroke: var(--soft); stroke-dasharray: 4 3; }
"""


def page(result: Result, options: Options, says: dict[str, str]) -> str:
    """The page as one HTML document. `says`: what each scenario breaks, in one sentence."""
    verdicts = [one.verdict.word for one in result.scenarios]
    worst = next((word for word in ("VIOLATED", "VOID") if word in verdicts), "CLEAN" if verdicts else "VOID")
    violations = sum(one.verdict.violations for one in result.scenarios)
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Trellis chaos: {worst}</title><style>{_STYLE}</style></head><body>",
        f'<h1>Chaos: <span class="{worst}">{worst}</span></h1>',
        f"<p>{len(result.scenarios)} scenarios, {violations} violations, {len(result.skipped)} skipped. "
        f"{options.orders} orders at {result.rate or options.rate:.3g}/s in each, seed {options.seed}, policy "
        f"{escape(options.policy.name)}, {options.workers} workers.</p>",
        f'<p class="soft">Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Drained: seconds from the end of the fault '
        "until the backlog is what it was and new orders are as quick as before. Predicted: the same, computed before "
        "the run from rate, length of the outage and measured pace.</p>",
    ]  # fmt: skip
    if result.pace is not None:
        parts.append(
            f'<p class="soft">Measured before the run: {result.pace.orders_per_s:.1f} orders/s when many wait; new '
            f"workers take {result.pace.hire_s:.1f} s to start and {result.pace.lag_s:.1f} s to reach that pace.</p>"
        )
    parts += [*_summary(result), *(line for one in result.scenarios for line in _scenario(one, says))]
    if result.skipped:
        parts.append("<h2>Skipped: this machine cannot stage them</h2><ul>")
        parts += [f"<li><b>{escape(one.name)}</b>: {escape(one.why)}</li>" for one in result.skipped]
        parts.append("</ul>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _summary(result: Result) -> Iterable[str]:
    if not result.scenarios:
        return
    yield '<div class="wide"><table><tr><th>scenario</th><th class="text">verdict</th><th>orders</th><th>acknowledged'
    yield "</th><th>landed</th><th>violations</th><th>backlog</th><th>drained [s]</th><th>predicted [s]</th></tr>"
    for one in result.scenarios:
        word = one.verdict.word
        numbers = (
            one.orders, one.acknowledged, one.verdict.landed, one.verdict.violations, one.backlog,
            seconds(one.drained_s), seconds(one.predicted_s),
        )  # fmt: skip
        yield f'<tr><td><a href="#{escape(one.name)}">{escape(one.name)}</a></td><td class="text {word}">{word}</td>'
        yield "".join(f"<td>{number}</td>" for number in numbers) + "</tr>"
    yield "</table></div>"


def _scenario(one: Scenario, says: dict[str, str]) -> Iterable[str]:
    yield f'<h2 id="{escape(one.name)}">{escape(one.name)}</h2><p>{escape(says.get(one.name, ""))}</p>'
    yield f'<p class="{one.verdict.word}">{escape(one.sentence)}</p>'
    for each in one.breaks:
        yield (
            f"<p>{escape(each.name)}: broken {one.since(each.began):.1f} s after the first order, healed after "
            f"{(each.until - each.began).total_seconds():.1f} s.</p>"
        )
    ended = ", ".join(f"{number} {escape(state)}" for state, number in sorted(one.states.items())) or "unknown"
    yield f'<p class="soft">How the orders ended: {ended}.</p>'
    if one.curve:
        yield chart(one)
    for finding in one.verdict.listed():
        yield f'<p class="VIOLATED">{escape(finding["order_id"])}: {escape(finding["sentence"])} '
        yield f"({escape(str(finding['evidence']))})</p>"
    if one.folder is not None:
        yield f"<p>Kept: <code>{escape(str(one.folder))}</code></p>"


def chart(one: Scenario) -> str:
    """The backlog over time as SVG, with a band for each fault and a mark where all was as before."""
    end = one.curve[-1][0]
    most = max(1, *(waiting for _, waiting in one.curve))

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at / end, 0.0), 1.0)

    def y(waiting: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * waiting / most

    lines = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Backlog of {escape(one.name)}: at most {most} '
        'orders">'
    ]
    for each in one.breaks:
        begin, width = x(one.since(each.began)), x(one.since(each.until)) - x(one.since(each.began))
        lines.append(f'<rect class="band" x="{begin:.1f}" y="{TOP}" width="{max(width, 1.5):.1f}" ')
        lines.append(f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(each.name)}</title></rect>')
    for waiting in _ticks(most):
        lines.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(waiting):.1f}" y2="{y(waiting):.1f}"/>'
        )
        lines.append(f'<text x="{LEFT - 6}" y="{y(waiting) + 4:.1f}" text-anchor="end">{waiting:g}</text>')
    for at in _ticks(end):
        lines.append(f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{at:g} s</text>')
    healed = max((one.since(each.healed) for each in one.breaks if each.healed is not None), default=None)
    for name, after in (("drained", one.drained_s), ("predicted", one.predicted_s)):
        if after is not None and healed is not None:
            kind = "edge" if name == "drained" else "mark"
            place = x(healed + after)
            lines.append(f'<line class="{kind}" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">')
            lines.append(f"<title>{name} after {after:.1f} s</title></line>")
    points = " ".join(f"{x(at):.1f},{y(waiting):.1f}" for at, waiting in one.curve)
    lines.append(f'<polyline class="line" points="{points}"/>')
    lines.append(f'<text x="{LEFT}" y="{HEIGHT - 2}">orders that were due and have not ended; band: broken; line: '
                 "all as before; dashes: predicted</text></svg>")  # fmt: skip
    return "".join(lines)


def _ticks(most: float) -> Sequence[float]:
    """About four round numbers from 0 to at most `most`."""
    step = next(s for scale in (1, 10, 100, 1000, 10_000) for s in (scale, 2 * scale, 5 * scale) if most / s <= 5)
    return [step * n for n in range(int(most / step) + 1)]


def seconds(value: float | None) -> str:
    """A time for a table: a dash where there is none."""
    return "-" if value is None else f"{value:.1f}"
