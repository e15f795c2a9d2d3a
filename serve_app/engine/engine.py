"""The decode engine: one step at a time for all running groups."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from serve_app.engine.counters import Counters
from serve_app.engine.decoder import Decoder
from serve_app.engine.graphs import StepGraphs
from serve_app.engine.image_attention import RowImages
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.lane import Lane, LaneKey, Part
from serve_app.engine.loading import Loaded
from serve_app.engine.pixels import Normalizer
from serve_app.engine.scheduler import Group, Scheduler
from serve_app.engine.vision import VisionEncoder
from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed, InvalidOption
from serve_app.types import EngineLimits

logger = logging.getLogger(__name__)

WARM_EXTENTS = (128, 256, 512)  # nodes of the trees that the presets' lengths lead to
OUT_OF_MEMORY = GenerationFailed("The model ran out of memory.")
BROKEN = GenerationFailed("The model failed while it generated; the service's log has the details.")


class Engine:
    """Continuous batching of beam groups. Not thread-safe: one thread calls everything."""

    def __init__(self, loaded: Loaded, limits: EngineLimits) -> None:
        """Takes the model over: its layers are repacked and may change their dtype. Raises `ModelError`s."""
        precision, model = loaded.precision, loaded.model
        config: Any = model.config
        self._device = torch.device(loaded.info.device)
        self.use_device()
        self._normalize = Normalizer(loaded.mean, loaded.std, loaded.info)
        self._decoder = decoder = Decoder(model.text_decoder, precision)
        self._vision = VisionEncoder(model.vision_model, precision.vision_dtype)
        self._end: int = config.text_config.sep_token_id
        width, size = decoder.heads * decoder.head_size, decoder.cache_dtype.itemsize
        patches = (loaded.info.image_height // config.vision_config.patch_size) * (
            loaded.info.image_width // config.vision_config.patch_size
        ) + 1
        node_bytes = 2 * decoder.layers * width * size
        self.scheduler = Scheduler(limits.max_rows, limits.max_cache_bytes, node_bytes)
        shape = (decoder.heads, patches, decoder.head_size)
        self.images = ImageCache(decoder.layers, shape, limits.max_image_cache_bytes, decoder.cache_dtype, self._device)
        self._graphs = StepGraphs(decoder, self.images) if self._device.type == "cuda" else None
        self._lanes: dict[LaneKey, Lane] = {}
        self._counters = Counters(max_rows=limits.max_rows)
        self._fatal: Exception | None = None

    @property
    def counters(self) -> Counters:
        """The counters as of now."""
        c = self._counters
        c.waiting, c.rows = len(self.scheduler.waiting), self.scheduler.rows
        c.image_hits, c.image_misses, c.image_bytes = self.images.hits, self.images.misses, self.images.bytes
        c.cache_bytes = sum(lane.cache.bytes for lane in list(self._lanes.values()))
        return c

    @property
    def idle(self) -> bool:
        return not self.scheduler.waiting and self.scheduler.rows == 0

    def submit(self, group: Group) -> None:
        """Queues a group. Raises `InvalidOption` or `WrongImageSize` when it can never run."""
        self._normalize.check(group.pixels)
        if not 0 <= group.seed < 2**63:
            raise InvalidOption(f"The seed must be between 0 and 2^63, not {group.seed}.")
        group.submitted = time.monotonic()
        self.scheduler.submit(group)

    @torch.inference_mode()
    def step(self) -> None:
        """Drops what is over, admits what fits, and takes every running group one token further.

        Raises when the device can do no more work in this process.
        """
        self._drop_ended()
        self._admit()
        if lanes := [lane for lane in self._lanes.values() if lane.groups]:
            self._advance(lanes)
        self._trim()
        if self._fatal is not None:
            raise self._fatal

    @torch.inference_mode()
    def warm_up(self, rows: Sequence[int]) -> None:
        """On a GPU, captures the graphs for groups of these numbers of beams; 1 is for greedy."""
        if self._graphs is None:
            return
        for count in rows:
            lane = self._lane(LaneKey(count > 1, count))
            self._graphs.warm_up(lane, max(1, self.scheduler.max_rows // count), WARM_EXTENTS)

    def fail_all(self, error: CaptionServeError) -> None:
        """Ends every group, running and waiting, with `error`."""
        for group in self.scheduler.withdraw(lambda _: True):
            group.finish(error)
        self._fail(list(self._lanes.values()), error)

    def check_integrity(self) -> None:
        """Asserts that rows, bytes, trees and image references add up."""
        running = [group for lane in self._lanes.values() for group in lane.groups]
        self.scheduler.check_integrity(running)
        for lane in self._lanes.values():
            lane.cache.check_integrity(len(lane.groups))
        self.images.check_integrity(Counter(group.pixels.digest for group in running))

    def use_device(self) -> None:
        """Makes the engine's GPU the calling thread's own, which graphs and streams go by."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _trim(self) -> None:
        """Gives the memory of lanes without groups back when all lanes together have more than is allowed."""
        if sum(lane.cache.bytes for lane in self._lanes.values()) > self.scheduler.max_bytes:
            self._lanes = {key: lane for key, lane in self._lanes.items() if lane.groups}

    def _drop_ended(self) -> None:
        now = time.monotonic()

        def ended(group: Group) -> bool:
            return group.abandoned() or (group.deadline is not None and now >= group.deadline)

        gone = self.scheduler.withdraw(ended)
        for lane in self._lanes.values():
            slots = [slot for slot, group in enumerate(lane.groups) if ended(group)]
            gone += [self._close(lane, slot) for slot in reversed(slots)]
        self._counters.groups_dropped += len(gone)
        for group in gone:
            group.finish(DeadlineExceeded("Its time ran out."))

    def _admit(self) -> None:
        """Starts waiting groups. One new image a step, so that running groups go on between them."""
        first_new: dict[LaneKey, int] = {}
        encoded = False
        while (group := self.scheduler.next()) is not None:
            if group.pixels.digest not in self.images:
                if not self.images.has_room() or (encoded and self.scheduler.rows):
                    break
                encoded = True
            self.scheduler.admit()
            self._counters.wait_s += time.monotonic() - group.submitted
            if self._acquire_image(group):
                self._open(group, first_new)
        if first_new:
            self._prefill([(self._lanes[key], first) for key, first in first_new.items()])

    def _acquire_image(self, group: Group) -> bool:
        def encode(keys: list[torch.Tensor], values: list[torch.Tensor]) -> None:
            with self._counters.timed("encode"):
                self._decoder.encode(self._vision(self._normalize(group.pixels)), keys, values)

        try:
            group.image = self.images.acquire(group.pixels.digest, encode)
        except Exception as error:
            self._counters.groups_failed += 1
            self.scheduler.release(group)
            group.finish(self._named(error))
            return False
        return True

    def _open(self, group: Group, first_new: dict[LaneKey, int]) -> None:
        """Takes an admitted group into its lane; notes in `first_new` where the lane's new groups begin."""
        key = LaneKey.of(group)
        try:
            lane = self._lane(key)
            first_new.setdefault(key, len(lane.groups))
            lane.open(group)
        except Exception as error:
            named = self._named(error)
            first_new.pop(key, None)
            if broken := self._lanes.get(key):
                # The lane took the group in by half or not at all; nothing in it can be trusted.
                broken.groups = [other for other in broken.groups if other is not group]
                self._fail([broken], named)
            self._counters.groups_failed += 1
            self._release(group)
            group.finish(named)

    def _prefill(self, new: list[tuple[Lane, int]]) -> None:
        """Runs the new groups' prompts but for the last token, which the first step takes.

        `new`: lanes with the first slot that is new in each.
        """
        try:
            with self._counters.timed("prefill"):
                parts = [part for lane, first in new if (part := lane.prompts(first)) is not None]
                if parts:
                    self._run(parts)
            for lane, first in new:
                lane.end_prompts(first)
        except Exception as error:
            named = self._named(error)
            for lane, first in new:
                for slot in reversed(range(first, len(lane.groups))):
                    self._counters.groups_failed += 1
                    self._close(lane, slot).finish(named)

    def _advance(self, lanes: list[Lane]) -> None:
        try:
            with self._counters.timed("forward"):
                logits = self._forward(lanes)
        except torch.OutOfMemoryError as error:
            # The step can be taken again: nothing but the nodes that it writes has changed.
            self._fail_newest(lanes, self._named(error))
            return
        except Exception as error:
            self._fail(lanes, self._named(error))
            return
        self._counters.steps += 1
        self._counters.tokens += len(logits)
        start = 0
        for lane in lanes:
            stop = start + len(lane.groups) * lane.key.rows
            try:
                with self._counters.timed("search"):
                    self._choose(lane, logits[start:stop])
            except Exception as error:
                self._fail([lane], self._named(error))
            start = stop

    def _forward(self, lanes: list[Lane]) -> torch.Tensor:
        """float32 [rows, vocabulary] for the rows of all lanes."""
        parts = [lane.newest() for lane in lanes]
        if self._graphs is not None:
            slots = [[group.image.slot for group in lane.groups if group.image] for lane in lanes]
            return torch.cat([self._graphs(part, images) for part, images in zip(parts, slots, strict=True)])
        return self._decoder.logits(self._run(parts))

    def _run(self, parts: list[Part]) -> torch.Tensor:
        """States [rows, width] of all rows of the parts."""
        tokens = torch.cat([part.tokens.flatten() for part in parts])
        positions = torch.cat([part.positions.flatten() for part in parts])
        slots = [group.image.slot for part in parts for group in part.groups if group.image]
        images = RowImages.of(self.images, slots, self._device)
        return self._decoder.forward(tokens, positions, [part.segment for part in parts], images)

    def _choose(self, lane: Lane, logits: torch.Tensor) -> None:
        done = lane.advance(logits).done
        for slot in reversed([slot for slot, ended in enumerate(done) if ended]):
            results = lane.results(slot)
            self._counters.groups_finished += 1
            self._close(lane, slot).finish(results)

    def _lane(self, key: LaneKey) -> Lane:
        if key not in self._lanes:
            self._lanes[key] = Lane(key, self._decoder, self._end)
        return self._lanes[key]

    def _close(self, lane: Lane, slot: int) -> Group:
        """Frees all that a running group holds."""
        group = lane.close(slot)
        self._release(group)
        return group

    def _release(self, group: Group) -> None:
        self.scheduler.release(group)
        assert group.image is not None
        self.images.release(group.image)
        group.image = None

    def _fail(self, lanes: list[Lane], error: CaptionServeError) -> None:
        """Ends all groups of the lanes, whose state may be broken, and forgets the lanes."""
        for lane in lanes:
            for group in lane.groups:
                self._counters.groups_failed += 1
                self._release(group)
                group.finish(error)
            lane.groups.clear()
            self._lanes.pop(lane.key, None)

    def _fail_newest(self, lanes: list[Lane], error: CaptionServeError) -> None:
        """Ends the group that came last, so that the others have its memory."""
        lane = max(lanes, key=lambda lane: max(group.submitted for group in lane.groups))
        slot = max(range(len(lane.groups)), key=lambda slot: lane.groups[slot].submitted)
        self._counters.groups_failed += 1
        self._close(lane, slot).finish(error)

    def _named(self, error: Exception) -> CaptionServeError:
        if isinstance(error, CaptionServeError):
            return error
        if isinstance(error, torch.OutOfMemoryError):
            logger.warning("out of memory: %s", error)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return OUT_OF_MEMORY
        logger.error("a step failed", exc_info=error)
        if isinstance(error, torch.AcceleratorError):
            self._fatal = error
        return BROKEN
