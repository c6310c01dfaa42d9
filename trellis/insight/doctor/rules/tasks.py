"""The rule about workflow tasks: what goes wrong in workflow code itself."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from trellis.insight.doctor.evidence import Evidence
from trellis.insight.doctor.finding import Finding, Predicted
from trellis.insight.doctor.numbers import limits
from trellis.insight.doctor.rules.rule import Rule, several

_HARMLESS = ("unhandled command", "reset workflow", "schedule to start timeout", "force close command", "unspecified")
"""Temporal repeats such a task at once, or it is a worker's restart: nothing is wrong with the code."""


class WorkflowTasksFail(Rule):
    """Workflow tasks fail or time out: Temporal retries them for ever, and the workflow stands still.

    Needs a workflow whose task fails still, or failures in two workflows of a type. One timeout of a task is a worker
    that was stopped, or busy: so a task that timed out must have done so three times, or tasks of five workflows and of
    a fifth of all (lower limit). A timeout of a sticky queue, an unhandled command and a reset are no failures of the
    code.
    """

    name = "workflow tasks fail"
    cause = "tasks"

    def judge(self, evidence: Evidence) -> Iterator[Finding]:
        tasks = evidence.tasks
        tasks = tasks[~tasks["name"].astype(str).isin(_HARMLESS)]
        for name, mine in tasks.groupby(tasks["workflow_type"].astype(str), sort=True):
            again, causes = mine[mine["name"] == "retried"], mine[mine["name"] != "retried"]
            failed = again["run_id"].isin(causes.loc[causes["outcome"] == "failed", "run_id"])
            late = again["run_id"].isin(causes["run_id"]) & (again["attempt"].fillna(0) >= 3)
            stuck = again[failed | late]
            if not len(stuck):
                runs = int((evidence.workflows["workflow_type"].astype(str) == name).sum())
                failures = causes.loc[causes["outcome"] == "failed", "run_id"].nunique()
                timeouts = causes.loc[causes["outcome"] != "failed", "run_id"].nunique()
                if failures < 2 and (timeouts < 5 or limits(timeouts, max(runs, timeouts))[0] < 0.2):
                    continue
            yield self._finding(evidence, str(name), stuck, causes)

    def _finding(self, evidence: Evidence, name: str, stuck: pd.DataFrame, causes: pd.DataFrame) -> Finding:
        cause = str(causes["name"].astype(str).mode().iloc[0])
        errors = causes.loc[causes["name"].astype(str) == cause, "error"].dropna().astype(str)
        error = " ".join(errors.iloc[0].split())[:160] if len(errors) else ""
        option, value = self._remedy(cause, error)
        runs = evidence.workflows[evidence.workflows["workflow_type"].astype(str) == name]
        hit = causes["run_id"].nunique()
        since = (pd.Timestamp(evidence.now) - stuck["scheduled_at"]).dt.total_seconds().clip(lower=0).sum()
        attempts = int(stuck["attempt"].max()) if len(stuck) else int(causes["attempt"].fillna(1).max())
        return Finding(
            rule=self.name, activity_type=None, workflow_type=name, option=option, set=value,
            evidence={
                "says": (
                    f"workflow tasks of {several(hit, 'workflow')} of {max(hit, len(runs)):,} failed ({cause}"
                    f"{f': {error}' if error else ''}); {several(stuck['run_id'].nunique(), 'workflow')} "
                    f"{'stands' if stuck['run_id'].nunique() == 1 else 'stand'} still, up to attempt {attempts}."
                ),
                "cause": cause, "error": error, "workflows": hit, "of": max(hit, len(runs)),
                "stuck": int(stuck["run_id"].nunique()), "attempt": attempts,
            },
            predicted=Predicted("workflows that stand still", float(stuck["run_id"].nunique()), 0.0),
            hurt=min(1.0, max(stuck["run_id"].nunique(), 0) / evidence.runs), seconds=float(since) / evidence.runs,
        )  # fmt: skip

    def _remedy(self, cause: str, error: str) -> tuple[str, str]:
        if "non deterministic" in cause or "Nondeterminism" in error or "TMPRL1100" in error:
            return (
                "workflow.patched",
                "around the changed code (`trellis check` says where), or bring the old code back",
            )
        if "timeout" in cause or "deadlock" in error.lower():
            return "workflow_task_timeout", "as it is, and move what blocks the workflow's code into an activity"
        return (
            "workflow_failure_exception_types",
            "[Exception] for the Worker or the workflow if such an error should fail the workflow; otherwise mend the "
            "code, and the workflow goes on",
        )
