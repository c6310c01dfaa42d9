"""Record the pictures of the control room that the README shows, from the real thing.

    python docs/pictures/record.py

It starts servers and a JupyterLab of its own, drives the control room in Chromium, and writes beside this file:
`control_room.webp` (about ten seconds, animated), `control_room_light.png` and `control_room_dark.png`.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import sys
from pathlib import Path

from PIL import Image
from playwright.async_api import Locator, Page, expect

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.browser.rooms import line, opened  # noqa: E402

FRAMES_PER_SECOND = 4
LARGEST = 600_000
"""Bytes: a README must open at once."""


class Recorder:
    """Takes a frame of the room every quarter of a second until it is stopped."""

    def __init__(self, room: Locator) -> None:
        self._room = room
        self._frames: list[Image.Image] = []
        self._times: list[float] = []
        self._task = asyncio.create_task(self._record())

    async def _record(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            taken = await self._room.screenshot(animations="disabled")
            self._times.append(began)
            self._frames.append(Image.open(io.BytesIO(taken)).convert("RGB"))
            await asyncio.sleep(max(0.0, 1 / FRAMES_PER_SECOND - (asyncio.get_running_loop().time() - began)))

    async def stop(self) -> tuple[list[Image.Image], list[int]]:
        """The frames in one size (the room grows while attempts are drawn), and how long each stood [ms]."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        height = max(frame.height for frame in self._frames)
        paper = self._frames[0].getpixel((5, 5))
        frames = []
        for frame in self._frames:
            whole = Image.new("RGB", (frame.width, height), paper)
            whole.paste(frame, (0, 0))
            frames.append(whole)
        stood = [round(1000 * (b - a)) for a, b in itertools.pairwise(self._times)]
        return frames, [*stood, 2000]


def save(frames: list[Image.Image], stood: list[int], path: Path) -> None:
    """An animated WebP that repeats for ever, in the best quality that is small enough."""
    for quality in (70, 55, 40, 25):
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=stood, loop=0,
            quality=quality, method=6,
        )  # fmt: skip
        if path.stat().st_size <= LARGEST:
            return
    raise SystemExit(f"{path.name} is larger than {LARGEST:,} bytes even in low quality")


async def act(room: Locator) -> None:
    """What the picture shows: faults are on, orders start, one is approved and retried, one is cancelled."""
    await room.get_by_role("button", name="Canonical thirds").click()
    await room.get_by_label("Policy").select_option("swift")
    await room.get_by_label("How many").fill("4")
    await room.get_by_role("button", name="Start").click()
    await asyncio.sleep(3)
    rows = room.locator(".tr-body .tr-line")
    first, second, third = [await rows.nth(n).get_attribute("data-id") for n in range(3)]
    await line(room, str(second)).click()
    await room.get_by_role("button", name="Cancel", exact=True).click()
    await asyncio.sleep(0.7)
    for order in (first, third):
        await line(room, str(order)).click()
        await expect(line(room, str(order))).to_contain_text("awaiting approval")
        await room.get_by_role("button", name="Approve").click()
        await asyncio.sleep(0.7)
    await line(room, str(first)).click()
    await asyncio.sleep(4)


async def theme(page: Page, name: str) -> None:
    await page.evaluate(
        f"(() => {{ window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {name}'}}); }})()"
    )
    light = str(name == "Light").lower()
    await page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
    await asyncio.sleep(1)


async def main() -> None:
    async with opened({}) as lab, lab.room(width=1130, height=1150) as (page, room):
        # The notebook's own parts are no part of the picture.
        await page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        recorder = Recorder(room)
        await act(room)
        frames, stood = await recorder.stop()
        await page.mouse.move(0, 0)
        await page.set_viewport_size({"width": 1620, "height": 1150})
        for name in ("Light", "Dark"):
            await theme(page, name)
            picture = Image.open(io.BytesIO(await room.screenshot())).convert("RGB")
            picture.quantize(256).save(HERE / f"control_room_{name.lower()}.png", optimize=True)
    save(frames, stood, HERE / "control_room.webp")
    size = (HERE / "control_room.webp").stat().st_size
    print(f"{len(frames)} frames, {frames[0].width} x {frames[0].height}, {size:,} bytes")


if __name__ == "__main__":
    asyncio.run(main())
