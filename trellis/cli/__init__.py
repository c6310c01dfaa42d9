"""The command line. Exit code 0: done; 1: it failed, with a sentence on stderr; 2: wrong usage. `trellis check` ends
with 1 when a workflow breaks, and with 2 when it could not check.

One module per group of commands. At their top they import only what is quick to import; Temporal's SDK, the database
driver, pandas and the like are imported inside the command that needs them, so that `trellis --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

import typer

from trellis.cli import bench, faults, orders
from trellis.cli.advice import recommend
from trellis.cli.books import audit, reconcile
from trellis.cli.chaos import chaos
from trellis.cli.check import check
from trellis.cli.common import say
from trellis.cli.doctor import doctor
from trellis.cli.fly import fly
from trellis.cli.processes import api, lab, notebooks, worker
from trellis.cli.replay import replay
from trellis.cli.running import demo, load
from trellis.cli.servers import down, migrate, reset, status, up
from trellis.environment import asks_for_json_logs
from trellis.errors import TrellisError

__all__ = ["app", "main"]

COMMANDS = (
    up, down, reset, status, migrate, worker, api, lab, demo, fly, audit, load, chaos, check, replay, reconcile,
    recommend, doctor, notebooks,
)  # fmt: skip

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A flight simulator for durable workflows.")
for command in COMMANDS:
    app.command()(command)
app.add_typer(orders.commands, name="order")
app.add_typer(faults.commands, name="faults")
app.add_typer(bench.commands, name="bench")


WRONG_USAGE: Any = typer.BadParameter.__mro__[1]
"""click's UsageError. Which module has it depends on typer's version."""


def _usage(error: Any) -> str:
    command = error.ctx.command_path if error.ctx else "trellis"
    # Without any argument the message is the whole help.
    what = "A command is needed." if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
    return f"{what.rstrip('.')}. `{command} --help` shows the usage."


def main() -> None:
    """Entry point: every expected failure becomes one sentence and exit code 1."""
    # `kill` ends a command as Ctrl-C does, and ends the command's own servers too. A script's `&` makes a command
    # ignore Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code: str | int | None = 0
    try:
        # Typer prints wrong usage in a box of its own, which is no JSON.
        code = app(standalone_mode=not asks_for_json_logs())
    except WRONG_USAGE as error:
        say(_usage(error), error=True)
        code = 2
    except typer.Abort:
        say("Aborted.", error=True)
        code = 1
    except TrellisError as error:
        say(str(error), error=True)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    # Temporal's threads may call into an interpreter that is being taken down, which aborts the process and loses
    # the exit code (temporalio/sdk-python#300). An unexpected error still ends the usual way, with its traceback.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
