"""From a frame to a structure: a whole history, a history's attempts, or the ledger's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.chain import Choice, Part, Series, Step
from trellis.insight.frames import noun_of
from trellis.insight.structure.course import Course, Structure, learn_type, values
from trellis.insight.structure.groups import Waits, waits_of
from trellis.insight.structure.items import CHILD, Items, from_attempts, from_history
from trellis.insight.structure.ledger import of_orders
from trellis.insight.structure.wording import share_words


def structure_of(frame: pd.DataFrame, attempts: pd.DataFrame, runs: pd.DataFrame | None = None) -> Structure:
    """What the runs in a frame do.

    `frame`: a whole `insight.history` frame (it has `kind`), or the attempts themselves. `attempts`: of the same runs,
    as `history_attempts` or `insight.attempts` returned them. `runs`: their durations, as `history_workflows` or
    `insight.orders` returned them; a whole history holds them itself.
    """
    if "kind" in frame:
        items = from_history(frame)
    elif noun_of(attempts) == "workflow":
        items = from_attempts(attempts, runs)
    else:
        return of_orders(attempts, runs)
    return _of_items(items, attempts)


def _of_items(items: Items, attempts: pd.DataFrame) -> Structure:
    runs = items.runs
    seconds = runs["seconds"].to_numpy(dtype="float64", na_value=np.nan)
    parents = set(runs["workflow_id"])
    top = ~np.array([one in parents for one in runs["parent"]], dtype=bool)
    ended = np.isfinite(seconds) & (seconds >= 0) & (runs["outcome"] != "open").to_numpy()
    measured = pd.DataFrame({"order_id": _ids(runs), "seconds": seconds, "waited": 0.0})[top & ended]
    measured = measured.reset_index(drop=True)
    done = np.isfinite(seconds) & (seconds >= 0) & (runs["outcome"] == "succeeded").to_numpy()
    if not (top & done).any():
        steps = tuple(Step(str(name)) for name in dict.fromkeys(attempts["step"].astype(str)))
        words = "None of these workflows has completed, so it is not known what they do."
        return Structure(Series(steps), False, words, 0.0, measured, ())
    learned = _Types(items, done, waits_of(items))
    types = runs["workflow_type"].to_numpy(dtype=object)
    names = list(pd.unique(types[top & done]))
    courses = [learned.course(name, np.flatnonzero(top & done & (types == name))) for name in names]
    return _together(names, courses, seconds, measured)


def _ids(runs: pd.DataFrame) -> Any:
    """As `history_attempts` names the runs."""
    several = runs.duplicated("workflow_id", keep=False).to_numpy() & (runs["workflow_id"] != runs["run_id"]).to_numpy()
    ids = runs["workflow_id"].astype(str)
    return ids.where(~several, ids + " " + runs["run_id"].astype(str)).astype(pd.StringDtype("pyarrow"))


def _together(names: list[str], courses: list[Course], seconds: Any, measured: pd.DataFrame) -> Structure:
    takes = np.concatenate([course.takes for course in courses])
    whole = np.concatenate([seconds[course.runs] for course in courses])
    explained = float(np.minimum(takes, whole).sum() / whole.sum()) if whole.sum() > 0 else 1.0
    if len(courses) == 1:
        part, does = courses[0].part, courses[0].words
    else:
        shares = np.array([len(course.runs) for course in courses]) / len(whole)
        part = Choice(tuple(course.part for course in courses), tuple(float(one) for one in shares))
        does = "; ".join(
            f"{name} ({share_words(share)}): {course.words}"
            for name, share, course in zip(names, shares, courses, strict=True)
        )
    understood = all(course.understood for course in courses)
    words = f"{does[:1].upper()}{does[1:]}. " if len(courses) == 1 else f"{does}. "
    words += f"That takes {explained:.0%} of the time. Workflow tasks, scheduling and queues take the rest."
    rest = values(np.concatenate([course.rest for course in courses]))
    return Structure(part, understood, words, explained, measured, rest)


class _Types:
    """The courses of workflow types. A child's chain takes the child's place where its histories are there."""

    def __init__(self, items: Items, done: Any, waits: Waits) -> None:
        self._items, self._done, self._waits = items, done, waits
        self._parts: dict[str, Part | None] = {}
        self._types = items.runs["workflow_type"].to_numpy(dtype=object)
        self._has_parent = items.runs["parent"].isin(set(items.runs["workflow_id"])).to_numpy()
        self._children_timed()

    def _children_timed(self) -> None:
        """A child takes what its own run took."""
        table, runs = self._items.table, self._items.runs
        mine = self._done & self._has_parent
        if not mine.any() or "target" not in table:
            return
        took = runs[mine].drop_duplicates("workflow_id", keep=False).set_index("workflow_id")["seconds"]
        child = table["token"].map(lambda one: self._items.tokens[one].kind == CHILD).to_numpy(dtype=bool)
        known = table["target"].astype(object).map(took).to_numpy(dtype="float64")
        use = child & np.isfinite(known)
        table.loc[use, "value"] = known[use]
        table.loc[use, "good"] = known[use]

    def course(self, name: str, runs: Any) -> Course:
        children: dict[str, Part] = {}
        mine = self._items.table["run"].isin(runs)
        for token in pd.unique(self._items.table.loc[mine, "token"]):
            one = self._items.tokens[token]
            if one.kind == CHILD:
                part = self._child(one.name)
                if part is not None:
                    children[one.name] = part
        return learn_type(self._items, runs, children, self._waits)

    def _child(self, name: str) -> Part | None:
        if name not in self._parts:
            self._parts[name] = None  # a type that starts children of its own type is measured there
            runs = np.flatnonzero(self._done & self._has_parent & (self._types == name))
            self._parts[name] = self.course(name, runs).part if len(runs) else None
        return self._parts[name]
