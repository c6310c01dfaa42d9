"""`trellis bench`: measure. A benchmark that needs servers starts its own and ends them."""

from __future__ import annotations

from typing import Annotated

import typer

from trellis.cli.arguments import Changes, Preset, read_policy
from trellis.cli.common import Json, out, progress, read_settings, run, show
from trellis.policies import preset, tuned

commands = typer.Typer(no_args_is_help=True, help="Measure. What needs servers starts its own and ends them.")


@commands.command("deadline")
def bench_deadline(
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 100,
    policy: Preset = "swift",
    change: Changes = "{}",
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 10,
    hedge: Annotated[int, typer.Option(min=1, max=8, help="Lanes per step (placement activity).")] = 1,
    budget: Annotated[
        float | None, typer.Option(help="Another budget [s]; a long one shows the whole distribution.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
    as_json: Json = False,
) -> None:
    """Orders under the canonical faults: how many miss 15 s, and how many of these used up their dispatch rounds."""
    from trellis.bench import deadline

    settings = read_settings()
    chosen = read_policy(policy, change, "swift") or preset("swift")
    if hedge != 1:
        chosen = tuned(chosen, name=chosen.name, hedge=hedge)
    if budget is not None:
        # A child's own time limit would end a round that the longer budget allows.
        chosen = tuned(chosen, name=chosen.name, budget=budget, child_run_timeout=None)
    with progress(f"{chosen.name}, {orders} orders", orders, as_json) as tick:
        result = run(deadline.run(settings, chosen, orders, concurrency, seed, tick))
    show(result, as_json)


@commands.command("throughput")
def bench_throughput(
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds of each kind.")] = 9,
    per_round: Annotated[int, typer.Option(min=1, help="Orders a round.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 20,
    sandboxes: Annotated[bool, typer.Option("--sandboxes", help="Compare ways to run workflow code instead.")] = False,
    as_json: Json = False,
) -> None:
    """Calm orders per second against a twin that does nothing and a bare workflow."""
    from trellis.bench import throughput

    settings = read_settings()
    measure = throughput.run_sandboxes if sandboxes else throughput.run
    with progress("rounds", rounds * 3, as_json) as tick:
        result = run(measure(settings, rounds, per_round, concurrency, tick))
    show(result, as_json)


@commands.command("api")
def bench_api(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 50,
    seconds: Annotated[float, typer.Option(min=1, help="For how long.")] = 30,
    flood: Annotated[float, typer.Option(min=1, help="Requests a second of the flood that follows.")] = 500,
    as_json: Json = False,
) -> None:
    """How long `status` takes over HTTP while orders run, and how the API answers a flood."""
    from trellis.bench import api as bench

    settings = read_settings()
    with progress("requests", int(rate * seconds) + int(flood * seconds / 5), as_json) as tick:
        result = run(bench.run(settings, rate, seconds, flood, tick))
    show(result, as_json)


@commands.command("board")
def bench_board(
    orders: Annotated[int, typer.Option(min=1, max=500, help="Orders in flight while the delay is measured.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating pairs of rounds, board open and closed.")] = 9,
    per_round: Annotated[int, typer.Option(min=2, help="Orders a round.")] = 60,
    events: Annotated[int, typer.Option(min=0, help="Events in the ledger before it begins.")] = 0,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="Measure the board of somebody else's workflows instead.")
    ] = False,
    workflows: Annotated[int, typer.Option(min=1, max=1000, help="With --foreign: workflows on the page.")] = 1000,
    seconds: Annotated[float, typer.Option(min=1, help="With --foreign: for how long.")] = 60,
    as_json: Json = False,
) -> None:
    """The delay from an event's commit to the board's new value, and orders per second with the board open and
    closed. With --foreign: the delay from a change that the plugin saw, and apart from it what only Temporal tells."""
    from trellis.bench import board, foreign_board

    settings = read_settings()
    if foreign:
        with progress("workflows, delays, what Temporal tells", 3, as_json) as tick:
            result = foreign_board.run(settings, workflows, seconds, tick)
        show(result, as_json)
        return
    with progress("delay, then rounds", rounds + 1, as_json) as tick:
        result = board.run(settings, orders, rounds, per_round, events, tick)
    show(result, as_json)


@commands.command("plugin")
def bench_plugin(
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds of each kind.")] = 9,
    per_round: Annotated[int, typer.Option(min=1, help="Workflows a round, ten activities each.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 20,
    as_json: Json = False,
) -> None:
    """Short activities per second of a worker with TrellisPlugin and of one without, and what a row costs."""
    from trellis.bench import plugin

    settings = read_settings()
    with progress("rounds", rounds * 2, as_json) as tick:
        result = run(plugin.run(settings, rounds, per_round, concurrency, tick))
    show(result, as_json)


@commands.command("coldstart")
def bench_coldstart(
    rounds: Annotated[int, typer.Option(min=1, help="How many of each kind.")] = 5, as_json: Json = False
) -> None:
    """From `lab.start()` in a fresh process to the first COMPLETED calm order, workspace never used and used before."""
    from trellis.bench import coldstart

    settings = read_settings()
    with progress("starts", rounds * 2, as_json) as tick:
        result = coldstart.run(settings, rounds, tick)
    show(result, as_json)


@commands.command("audit")
def bench_audit(
    orders: Annotated[int, typer.Option(min=10, help="How many orders to make and audit.")] = 100_000,
    as_json: Json = False,
) -> None:
    """The audit over many orders, without histories: its rate, and how much memory it takes."""
    from trellis.bench import audit as bench

    settings = read_settings()
    with progress("orders", orders + orders // 10, as_json) as tick:
        result = run(bench.run(settings, orders, tick))
    show(result, as_json)


@commands.command("advice")
def bench_advice(
    attempts: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="About how many attempts to learn from.")
    ] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="How many times to measure.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the simulated orders.")] = 0,
    as_json: Json = False,
) -> None:
    """How long it takes to learn from many attempts, simulated ones, and to recommend a policy."""
    from trellis.bench import advice

    read_settings()
    with progress("learn and recommend", rounds, as_json) as tick:
        result = advice.run(attempts, rounds, seed, tick)
    show(result, as_json)


@commands.command("recovery")
def bench_recovery(
    outages: Annotated[str, typer.Option(help="Lengths of the outages [s], with commas.")] = "5,10,20",
    loads: Annotated[
        str, typer.Option(help="Arrivals as shares of the measured pace, with commas.")
    ] = "0.2,0.4,0.55,0.7",
    seed: Annotated[int, typer.Option(help="Seed of arrivals and faults.")] = 0,
    as_json: Json = False,
) -> None:
    """All workers gone for a while, under several loads: how long it takes to drain, measured and predicted before."""
    from trellis.bench import recovery

    settings = read_settings()
    lengths, shares = recovery.numbers(outages, 1, 600), recovery.numbers(loads, 0.05, 0.9)
    with progress("cells", len(lengths) * len(shares), as_json) as tick:
        result = run(recovery.run(settings, lengths, shares, seed, tick))
    show(result, as_json, lambda: recovery.show(result, out.print))


@commands.command("storms")
def bench_storms(
    cells: Annotated[int, typer.Option(min=1, max=12, help="How many cells; two to a border.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the simulated orders.")] = 0,
    as_json: Json = False,
) -> None:
    """Outages of a provider of finite capacity: the border between recovers and never, predicted and measured."""
    from trellis.bench import storms

    settings = read_settings()
    with progress("cells", cells, as_json) as tick:
        result = run(storms.run(settings, cells, seed, tick))
    show(result, as_json)


@commands.command("replay")
def bench_replay(
    events: Annotated[int, typer.Option(min=11, max=50_000, help="Events of the made history.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating rounds.")] = 5,
    orders: Annotated[
        int, typer.Option(min=0, help="Also run so many orders, and compare recordings with live queries.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of faults and requests.")] = 0,
    as_json: Json = False,
) -> None:
    """Recording a replay against the bare Replayer: time and memory. With --orders: do recordings tell the truth?"""
    from trellis.bench import replay as bench

    settings = read_settings()
    with progress("rounds", rounds + 1, as_json) as tick:
        result = bench.run(events, rounds, tick)
    if orders:
        from trellis.bench import truth

        with progress("orders", orders, as_json) as tick:
            result["orders"] = run(truth.run(settings, orders, rounds, seed, tick))
    show(result, as_json)


@commands.command("events")
def bench_events(
    rows: Annotated[int, typer.Option(min=1, max=100_000_000, help="How many events.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating pairs of load and floor.")] = 9,
    slow_rounds: Annotated[int, typer.Option(min=1, help="How many of the rounds also run read_sql.")] = 3,
    batches: Annotated[
        int | None, typer.Option(min=1, help="Instead make one pass, in frames of this many rows.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read the events table into a DataFrame: its speed against a bare Arrow fetch and pandas.read_sql, and its
    memory."""
    from trellis.bench import events

    settings = read_settings()
    ticks = -(-rows // 1_000_000) + (rounds if batches is None else 0)
    with progress(f"{rows:,} events", ticks, as_json) as tick:
        result = events.run(settings, rows, rounds, slow_rounds, batches, tick)
    show(result, as_json)


@commands.command("mutations")
def bench_mutations(
    number: Annotated[int, typer.Option("--mutations", min=1, help="How many edits of workflow code.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the edits.")] = 0,
    propose: Annotated[bool, typer.Option("--propose/--no-propose", help="Propose patches, too.")] = True,
    as_json: Json = False,
) -> None:
    """Random edits of workflow code: what `trellis check` says of each, against what a deployment of it does."""
    from trellis.bench import mutations

    settings = read_settings()
    with progress("edits", number, as_json) as tick:
        result = run(mutations.run(settings, number, seed, tick, propose=propose))
    show(result, as_json)


@commands.command("book")
def bench_book(
    workflows: Annotated[int, typer.Option(min=1, help="How many workflows, each of them twice.")] = 1000,
    kills: Annotated[
        int | None, typer.Option(min=0, help="How many workers are killed in each half. Default: one each 5 s or so.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the faults and of the kills.")] = 0,
    as_json: Json = False,
) -> None:
    """Whether the book of flights holds every attempt that the server counts, while workers are killed; and whether the
    same seed and ids give the same faults."""
    from trellis.bench import book

    settings = read_settings()
    with progress("workflows", 2 * workflows, as_json) as tick:
        result = run(book.run(settings, workflows, kills, seed, tick))
    show(result, as_json)


@commands.command("doctor")
def bench_doctor(
    seed: Annotated[int, typer.Option(help="Seed of the cases and of their calls.")] = 100,
    each: Annotated[int | None, typer.Option(min=1, help="At most so many cases of each kind.")] = None,
    as_json: Json = False,
) -> None:
    """Planted misconfigurations among sound apps, on a real server: how many of them `trellis doctor` finds, and how
    often it is wrong."""
    from trellis.bench import doctor as bench
    from trellis.bench.clinic.cases import cases

    settings = read_settings()
    with progress("workflows", sum(case.runs for case in cases(seed, each)), as_json) as tick:
        result = run(bench.run(settings, seed, each, tick))
    show(result, as_json)
