"""The engine: one model, one thread that works, and sessions that take turns.

A session is one open page. It has one place for each kind of wish: a newer wish of a kind takes the
place of an older one, which is answered with ``skipped``, and nothing queues up.
"""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import MemoryShortage, ScratchError, UsageError, log, told
from sd_scratch.page.answers import hello, masks, reading, saved, sentence, traced, whole, words_of
from sd_scratch.page.asked import NOTHING_ELSE, asked
from sd_scratch.page.messages import (
    CancelWish,
    PictureWish,
    PlaneWish,
    Refused,
    RunWish,
    SaveWish,
    ScoreWish,
    TensorWish,
    Wish,
    WordsWish,
    read_message,
    read_picture_message,
)
from sd_scratch.page.pictures import Album
from sd_scratch.page.runs import Result, Studio, held, pixel_bytes
from sd_scratch.page.session import Send, Session
from sd_scratch.page.sources import source_of
from sd_scratch.page.views import statistics, view
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.run import count_steps
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.scenes.oracle import Reading

SESSIONS_LIMIT = 8
BLOCKS = re.compile(r"(resnets|attentions|transformer_blocks|layers)\.\d+$")


class _Stopped(Exception):
    """Ends a forward pass in its middle."""


class _Brake:
    """Stands in front of every block of a network, and ends the forward pass once it is asked to."""

    def __init__(self) -> None:
        self.stopping: threading.Event | None = None

    def __call__(self, module: nn.Module, inputs: object) -> None:
        if self.stopping is not None and self.stopping.is_set():
            raise _Stopped

    def __deepcopy__(self, memo: object) -> "_Brake":
        return self  # a copy of a network has the same one


class Engine:
    """Answers the messages of several pages about one model.

    Args:
        model: only the engine uses it.
        named: a recipe that holds the model's name and revision, for the pictures that are saved.
        loras: files that a page can choose, by their names on the page.
    """

    def __init__(
        self,
        model: StableDiffusion,
        named: Recipe | None = None,
        loras: Mapping[str, Path] | None = None,
    ) -> None:
        self.model = model
        self.named = named or Recipe("", model=model.components.source)
        self.studio = Studio(model, loras)
        self._changed = threading.Condition()
        self._sessions: list[Session] = []
        self._current: Session | None = None
        self._ended = False
        self._brake = _Brake()
        self._hooks = [
            module.register_forward_pre_hook(self._brake)
            for network in (model.unet, model.vae, model.text)
            for name, module in network.named_modules()
            if BLOCKS.search(name)
        ]
        self._hello = hello(model, self.named) | {"loras": self.studio.wardrobe.listed()}
        self._thread = threading.Thread(target=self._work, name="page engine", daemon=True)
        self._thread.start()

    # Sessions, called from the server's thread ----------------------------------------------

    def open(self, send: Send) -> Session:
        """A new session; it is told what the model is. Raises UsageError where there are too many."""
        with self._changed:
            if len(self._sessions) >= SESSIONS_LIMIT:
                raise UsageError(
                    f"{SESSIONS_LIMIT} pages are open already - close one and load this one again"
                )
            session = Session(send)
            self._sessions.append(session)
        send(self._hello, None)
        return session

    def close(self, session: Session) -> None:
        with self._changed:
            session.closed = True
            session.waiting.clear()
            session.stopping.set()
            session.last, session.album = None, Album()
            self._sessions = [each for each in self._sessions if each is not session]

    def stop(self) -> None:
        """End the thread, after the block at hand."""
        with self._changed:
            self._ended = True
            for session in self._sessions:
                session.stopping.set()
            self._changed.notify()
        self._thread.join()
        for hook in self._hooks:
            hook.remove()

    def receive(self, session: Session, message: str | bytes) -> None:
        """Read a message, a text or a picture's bytes, and see to it; what is wrong with it is said."""
        number: int | None = None
        try:
            if isinstance(message, str):
                number, wish = read_message(message)
            else:
                number, wish = read_picture_message(message)
            if isinstance(wish, WordsWish):
                session.send(words_of(self.model, number, wish.prompt), None)
                return
        except Refused as error:
            session.send({"say": "error", "id": error.number, "text": str(error)}, None)
            return
        except ScratchError as error:
            session.send({"say": "error", "id": number, "text": str(error)}, None)
            return
        self._put(session, number, wish)

    def _put(self, session: Session, number: int, wish: Wish) -> None:
        skipped = []
        with self._changed:
            if session.closed:
                return
            if isinstance(wish, CancelWish):
                skipped = [old for old, _ in session.waiting.values()]
                session.waiting.clear()
                session.stopping.set()
            else:
                kind = wish.use if isinstance(wish, PictureWish) else type(wish)
                old = session.waiting.pop(kind, None)
                skipped = [old[0]] if old else []
                session.waiting[kind] = (number, wish)
                if _ends(wish, session.running):
                    session.stopping.set()
                self._changed.notify()
            busy = self._current not in (None, session)
        for old_number in skipped:
            session.send({"say": "skipped", "id": old_number}, None)
        if isinstance(wish, CancelWish):
            session.send({"say": "cancelled", "id": number}, None)
        elif busy and isinstance(wish, RunWish):
            session.send({"say": "waiting", "id": number}, None)

    # The thread that works ------------------------------------------------------------------

    def _next(self) -> tuple[Session, int, Wish] | None:
        """The next wish, sessions in turns; None once the engine is stopped."""
        with self._changed:
            while True:
                if self._ended:
                    return None
                for session in self._sessions:
                    if session.waiting:
                        kind = next(iter(session.waiting))
                        session.running = session.waiting.pop(kind)
                        session.stopping.clear()
                        self._sessions.remove(session)
                        self._sessions.append(session)
                        self._current, self._brake.stopping = session, session.stopping
                        return session, *session.running
                self._changed.wait()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            session, number, wish = job
            try:
                with torch.no_grad():
                    self._serve(session, number, wish)
            except _Stopped:
                session.send({"say": "stopped", "id": number}, None)
            except ScratchError as error:
                session.send({"say": "error", "id": number, "text": str(error)}, None)
            except Exception as error:  # the thread lives on, whatever an edit does to a network
                log.debug("a wish failed", exc_info=True)
                session.send({"say": "error", "id": number, "text": _failure(error)}, None)
            finally:
                with self._changed:
                    session.running = self._current = self._brake.stopping = None

    def _serve(self, session: Session, number: int, wish: Wish) -> None:
        if isinstance(wish, RunWish):
            self._run(session, number, wish)
        elif isinstance(wish, TensorWish):
            self._tensor(session, number, wish)
        elif isinstance(wish, PictureWish):
            digest, width, height = session.album.put(wish)
            head = {"say": "picture", "id": number, "use": wish.use, "name": wish.name}
            session.send({**head, "hash": digest, "width": width, "height": height}, None)
        elif isinstance(wish, PlaneWish):
            plane = self.studio.plane(wish.prompts, wish.loras)
            explained = plane.components.explained.tolist()
            places = plane.places.tolist()
            session.send(
                {"say": "plane", "id": number, "places": places, "explained": explained}, None
            )
        elif isinstance(wish, ScoreWish):
            self._score(session, number, wish.count)
        elif isinstance(wish, SaveWish):
            result, seed = self._last(session), self._last(session).recipe.seed
            if wish.what == "picture":
                name, data = f"{seed}.png", saved(self.model, result, self.named)
            else:
                name, data = f"{seed}-tensors.zip", traced(result)
            session.send({"say": "saved", "id": number, "name": name}, data)

    def _run(self, session: Session, number: int, wish: RunWish) -> None:
        session.send({"say": "running", "id": number}, None)
        model, recipe = self.studio.completed(wish.recipe)
        total, start = count_steps(model, recipe), session.album.start(recipe)

        def on_step(step: Step) -> None:
            head: dict[str, Any] = {"say": "step", "id": number, "index": step.index, "of": total}
            head.update(t=step.t, sigma=step.sigma)
            if wish.previews:
                pixels, coarse = self.studio.preview(step.x0)
                head.update(width=pixels.shape[2], height=pixels.shape[1], coarse=coarse)
                session.send(head, pixel_bytes(pixels))
            elif not wish.live:
                session.send(head, None)

        # What is made while a picture is decoded would be recorded at every preview too.
        watched = tuple(name for name in wish.watch if not name.startswith("vae."))
        result, trace = self.studio.make(wish, start, on_step, watched)
        if trace is not None:
            result.traces.update({(name, None): trace for name in trace.names})
        seen = reading(self.model, result.pixels)
        recipe = whole(result.recipe, self.named)
        with self._changed:
            if not session.closed:
                session.last = result
        session.send(
            {
                "say": "done",
                "id": number,
                "recipe": recipe.known,
                "width": result.pixels.shape[2],
                "height": result.pixels.shape[1],
                "moments": [list(moment) for moment in result.moments],
                "calls": result.calls,
                "sha256": result.digest,
                "notes": list(result.notes),
                "reading": sentence(seen),
                "asked": _asked(result, seen),
            },
            pixel_bytes(result.pixels),
        )

    def _score(self, session: Session, number: int, count: int) -> None:
        result = self._last(session)
        pictures = self.studio.several(result.wish, result.start, count)
        rows = [
            _asked(result, seen)
            for each in pictures
            if (seen := reading(self.model, each)) is not None
        ]
        if not rows or not rows[0]:
            raise UsageError(
                "the prompt asks for nothing that can be counted in this model's pictures"
            )
        told = [(row[0][0], sum(right for _, right in row)) for row in zip(*rows, strict=True)]
        every = sum(all(right for _, right in row) for row in rows)
        head = {"say": "score", "id": number, "count": count, "asked": told, "whole": every}
        session.send(head, None)

    def _tensor(self, session: Session, number: int, wish: TensorWish) -> None:
        result = self._last(session)
        trace = self.studio.tensor(result, wish.name, wish.step, wish.place)
        infos = self.model.tensors(
            wish.name, width=result.recipe.width, height=result.recipe.height
        )
        info = infos[0]
        have = held(trace, wish.name, wish.step)
        if not have:
            raise UsageError(f"{wish.name} is not made in this run")
        branches = [a.branch for a in have]
        branch = wish.branch if wish.branch in branches else branches[0]
        address = next(a for a in have if a.branch == branch)
        x = trace.values[address][0]
        drawn = view(info, x, result.texts.get(branch or "cond"), wish.place)
        seen = reading(self.model, result.pixels) if drawn.kind == "maps" else None
        head = {
            "say": "tensor",
            "id": number,
            "name": wish.name,
            "step": address.call,
            "branch": branch,
            "branches": branches,
            "size": list(x.shape),
            "statistics": statistics(x),
            "source": source_of(self.model, info),
            "masks": masks(seen, info.hw),
            **drawn.head(),
        }
        session.send(head, drawn.body())

    def _last(self, session: Session) -> Result:
        if session.last is None:
            raise UsageError("there is no picture yet - make one first")
        return session.last


def _asked(result: Result, seen: Reading | None) -> list[tuple[str, bool]]:
    """What a run's prompt asks for. Between prompts there is none, and around a mask there may be more."""
    if seen is None or result.wish.place is not None:
        return []
    masked = result.start is not None and result.start.mask is not None
    rows = asked(result.recipe.prompt, seen)
    return [row for row in rows if not (masked and row[0] == NOTHING_ELSE)]


def _ends(wish: Wish, running: tuple[int, Wish] | None) -> bool:
    """Whether a new wish ends what its session is running: a picture that is overtaken, or a look at a tensor."""
    if running is None:
        return False
    old = running[1]
    if isinstance(wish, RunWish):
        dragged = wish.live and isinstance(old, RunWish) and old.live
        return isinstance(old, RunWish | TensorWish | ScoreWish) and not dragged
    return isinstance(wish, TensorWish) and isinstance(old, TensorWish)


def _failure(error: Exception) -> str:
    if isinstance(told(error), MemoryShortage):
        return str(told(error))
    first = (str(error).splitlines() or [""])[0][:200]
    return f"the run failed ({type(error).__name__}: {first}) - undo the last change, and try again"
