"""The decode engine: one step at a time for all running groups.

A step, in its order:

    drop       groups that were cancelled or are out of time leave queue and batch
    admit      groups at the head of the queue take rows, as long as there are some; new images are encoded
    launch     all rows take one token: of the prompt, or a new one; on a GPU nothing here waits for it
    read       what a step reported (who ended, how many nodes are in use): this one's on a CPU, on a GPU the last one's
    finish     groups that ended leave the batch, and their sequences are handed over

The words: a *group* is what one generate asked for; its *rows* are its beams. Rows lie in *blocks*; the tokens of a
block's rows are the *nodes* of a tree (`tree.py`). An image has a *slot* in the image cache.

Invariants, asserted by `check_integrity`:

    1  A running group holds one reference to its image, and nobody else does. A slot is encoded anew only when no
       group refers to it. (`ImageCache`)
    2  A row belongs to one group at most, and a block in use has at least one group. (`Batch`)
    3  A node may be overwritten when no row sees it; no row sees a node behind its block's `top`. (`Batch`)
    4  A group that is finished, failed or dropped reports once, and holds neither rows nor a reference.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from serve_app.engine import blip
from serve_app.engine.batch import Batch, Launched, Seat
from serve_app.engine.counters import Counters
from serve_app.engine.decoder import Decoder
from serve_app.engine.device import Device, Reading, device_of
from serve_app.engine.encoder import ImageEncoder
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.kernels import Kernels
from serve_app.engine.kernels.choosing import kernels_of
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.linear import ROW_MULTIPLE
from serve_app.engine.loading import Loaded
from serve_app.engine.pixels import Normalizer
from serve_app.engine.scheduler import Group, Scheduler
from serve_app.engine.state import RowState, hypotheses
from serve_app.engine.stepper import Stepper
from serve_app.engine.tree import LEAST_NODES, Tree
from serve_app.engine.vision import VisionEncoder
from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed, InvalidOption, ModelError
from serve_app.types import EngineLimits, Pixels

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = GenerationFailed("The model ran out of memory.")
BROKEN = GenerationFailed("The model failed while it generated; the service's log has the details.")
WARM_EXTENTS = (4 * LEAST_NODES, 2 * LEAST_NODES, LEAST_NODES)
"""Nodes of the trees that the presets' lengths lead to."""


class Engine:
    """Continuous batching of beam groups. Not thread-safe: one thread calls everything."""

    def __init__(
        self, loaded: Loaded, limits: EngineLimits, device: Device | None = None, kernels: Kernels | None = None
    ) -> None:
        """Takes the model over: its layers are repacked and may change their dtype. Raises `ModelError`s.
        `device` and `kernels` are those that fit the model's device unless given."""
        precision, model = loaded.precision, loaded.model
        config: Any = model.config
        self.device = device or device_of(torch.device(loaded.info.device))
        place, text = self.device.place, config.text_config
        heads, head_size = text.num_attention_heads, text.hidden_size // text.num_attention_heads
        kernels = kernels or kernels_of(place, heads, head_size, precision.dtype, precision.cache_dtype)
        self.decoder = decoder = Decoder(model.text_decoder, precision, kernels)
        patches = blip.patches(config, loaded.info.image_height, loaded.info.image_width)
        image = (decoder.heads, patches, decoder.head_size)
        self.images = ImageCache(decoder.layers, image, limits.max_image_cache_bytes, decoder.cache_dtype, place)
        normalize = Normalizer(loaded.mean, loaded.std, loaded.info, self.device)
        vision = VisionEncoder(model.vision_model, precision.vision_dtype)
        self.encoder = ImageEncoder(normalize, vision, decoder, self.images, self.device)
        self.scheduler = Scheduler()
        rows = -(-min(limits.max_beams, limits.max_rows) // ROW_MULTIPLE) * ROW_MULTIPLE
        blocks = max(1, limits.max_rows // rows)
        layout = (decoder.layers, decoder.heads, decoder.head_size, blocks, rows)
        tree = Tree(*layout, decoder.cache_dtype, place, limits.max_cache_bytes)
        if tree.max_nodes < 2 * rows:
            least = 2 * rows * blocks * tree.node_bytes
            raise ModelError(f"max_cache_bytes is {limits.max_cache_bytes}; so many rows need at least {least}.")
        state = RowState(blocks, rows, loaded.info.max_positions, decoder.vocabulary, self.device)
        self.batch = Batch(state, tree, self.device)
        self._counters = Counters(max_rows=blocks * rows)
        self._end_token = blip.end_token(config)
        self._stepper = self._new_stepper()
        self._unread: deque[tuple[Launched, Reading]] = deque()
        self._finishing: deque[tuple[Group, Reading]] = deque()
        self._fatal: Exception | None = None

    @property
    def counters(self) -> Counters:
        """The counters as of now."""
        c = self._counters
        c.waiting, c.rows = len(self.scheduler), self.batch.rows_used
        c.image_hits, c.image_misses, c.image_bytes = self.images.hits, self.images.misses, self.images.bytes
        c.cache_bytes = self.batch.tree.bytes
        return c

    @property
    def graphs(self) -> int:
        """Shapes of steps that were captured."""
        return self._stepper.captured

    @property
    def idle(self) -> bool:
        return not len(self.scheduler) and not self.batch.seats and not self._finishing

    def submit(self, group: Group) -> None:
        """Queues a group. Raises `InvalidOption` or `WrongImageSize` when it can never run."""
        self.encoder.normalize.check(group.pixels)
        if not 0 <= group.seed < 2**63:
            raise InvalidOption(f"The seed must be between 0 and 2^63, not {group.seed}.")
        beams, most = group.parameters.num_beams, self.batch.rows
        if beams > most:
            raise InvalidOption(f"The request has {beams} beams, and a group has at most {most} rows.")
        if group.rows > (most := most * self.batch.blocks):
            raise InvalidOption(f"The request needs {group.rows} rows (sequences) and the engine has {most}.")
        tokens, most = len(group.prompt) + self.batch.rows, self.batch.tree.max_nodes
        if tokens > most:
            raise InvalidOption(f"The prompt needs a cache of {tokens} tokens and a group has room for {most}.")
        self.scheduler.submit(group)

    @torch.inference_mode()
    def step(self) -> None:
        """Takes one step, as the module says. Raises when the device can do no more work in this process."""
        self._drop_ended()
        self._admit()
        if self.batch.seats:
            self._launch()
        self._hand_over()  # what the step before put there: on a GPU this one is under way meanwhile
        while self._unread and (len(self._unread) > self.device.ahead or not self.batch.seats):
            self._read()
        if not self.device.ahead:
            self._hand_over()
        if self._fatal is not None:
            raise self._fatal

    @torch.inference_mode()
    def warm_up(self) -> None:
        """On a GPU, captures the graphs of the steps that the presets lead to, as far as the cache may grow."""
        self.device.use()
        if not self.device.captures:
            return
        self.encoder.warm_up()
        extents = [extent for extent in WARM_EXTENTS if extent <= self.batch.tree.max_nodes]
        self.batch.tree.ensure(max(extents, default=self.batch.tree.nodes))
        counts = [*(1 << power for power in range((self.batch.blocks - 1).bit_length())), self.batch.blocks]
        try:
            self._stepper.warm_up(extents, counts)
        except Exception as error:
            if isinstance(error, torch.AcceleratorError) or isinstance(self.decoder.kernels, TorchKernels):
                raise
            logger.warning("Steps run without Triton's kernels, which failed: %s", error)
            self.decoder.kernels = TorchKernels()
            self._stepper = self._new_stepper()
            self._stepper.warm_up(extents, counts)

    def _new_stepper(self) -> Stepper:
        return Stepper(self.batch, self.decoder, self.images, self._end_token, self._counters, self.device.captures)

    @torch.inference_mode()
    def fail_all(self, error: CaptionServeError) -> None:
        """Ends every group, running and waiting, with `error`."""
        for group in self.scheduler.withdraw(lambda _: True):
            group.finish(error)
        self._fail(error)

    def check_integrity(self) -> None:
        """Asserts the invariants that the module lists."""
        self.batch.check_integrity()
        running = [seat.group for seat in self.batch.seats]
        self.images.check_integrity(Counter(group.pixels.digest for group in running))

    def _drop_ended(self) -> None:
        now = time.monotonic()
        late = DeadlineExceeded()
        for group in self.scheduler.withdraw(lambda group: group.over(now)):
            self._counters.groups_dropped += 1
            group.finish(late)
        for seat in [seat for seat in self.batch.seats if seat.group.over(now)]:
            self._counters.groups_dropped += 1
            self._leave(seat, late)

    def _admit(self) -> None:
        """Starts waiting groups. Running ones go on before more new images come than are best encoded together."""
        seats: list[Seat] = []
        fresh: dict[int, Pixels] = {}  # by slot
        while (group := self.scheduler.next()) is not None and self.batch.has_room(group):
            is_new = group.pixels.digest not in self.images
            if is_new and (len(fresh) == self.encoder.at_once or not self.images.has_room()):
                break
            self.scheduler.admit()
            self._counters.wait_s += time.monotonic() - group.submitted
            group.image = self.images.acquire(group.pixels.digest)
            if is_new:
                fresh[group.image.slot] = group.pixels
            try:
                seats.append(self.batch.open(group))
            except Exception as error:
                named = self._named(error)
                self._fail(named)
                if group.image is not None:
                    self._release(group).finish(named)
                return
        if fresh:
            self._encode(fresh, seats)
        for seat in seats:
            if seat in self.batch.seats:
                self._feed(seat)

    def _encode(self, fresh: Mapping[int, Pixels], seats: Sequence[Seat]) -> None:
        """Encodes images together, and one by one if that fails, so that an error ends only the groups of its image."""
        images = {slot: image for seat in seats if (image := seat.group.image) and (slot := image.slot) in fresh}
        try:
            with self._counters.timed("encode"):
                self.encoder(list(fresh.values()), list(fresh))
        except Exception as error:
            if len(fresh) > 1 and not isinstance(error, torch.AcceleratorError):
                for slot, pixels in fresh.items():
                    self._encode({slot: pixels}, seats)
                return
            named = self._named(error)
            if isinstance(error, torch.AcceleratorError):
                self._fail(named)
            for seat in [seat for seat in seats if seat.group.image in images.values()]:
                self._end(seat, named)
            return
        for image in images.values():
            image.encoded = True

    def _feed(self, seat: Seat) -> None:
        try:
            self._stepper.feed(seat)
        except GenerationFailed as error:  # its prompt does not fit
            self._end(seat, error)
        except Exception as error:  # half of it may have been taken in: nothing in the batch can be trusted
            self._fail(self._named(error))

    def _launch(self) -> None:
        try:
            shape = self.batch.shape()
        except (torch.OutOfMemoryError, GenerationFailed) as error:
            if self._unread:
                self._read()  # it may report that fewer nodes are in use
            else:
                self._fail_largest(self._named(error))
            return
        try:
            self._unread.append(self._stepper.launch(shape))
        except torch.OutOfMemoryError as error:
            (self._fail if self._stepper.began else self._fail_largest)(self._named(error))
            return
        except Exception as error:
            self._fail(self._named(error))
            return
        self._counters.steps += 1
        self._counters.tokens += sum(seat.group.rows for seat in self.batch.seats)

    def _read(self) -> None:
        launched, reading = self._unread.popleft()
        try:
            ended = self.batch.end_step(launched, reading.wait())
            for seat in ended:
                self._finishing.append((seat.group, self.batch.result(seat)))
                self._counters.groups_finished += 1
                self._close(seat)
        except Exception as error:
            self._fail(self._named(error))

    def _hand_over(self) -> None:
        """Tells the groups whose sequences are on the host what they are; on a GPU that takes a step longer."""
        while self._finishing:
            group, reading = self._finishing.popleft()
            try:
                group.finish(hypotheses(reading.wait(), group.parameters))
            except Exception as error:
                group.finish(self._named(error))

    def _close(self, seat: Seat) -> Group:
        """Frees all that a running group holds."""
        self.batch.close(seat)
        return self._release(seat.group)

    def _release(self, group: Group) -> Group:
        assert group.image is not None
        self.images.release(group.image)
        group.image = None
        return group

    def _fail(self, error: CaptionServeError) -> None:
        """Ends all running groups, whose state may be broken."""
        self._unread.clear()
        for seat in self.batch.seats:
            self._counters.groups_failed += 1
            self._release(seat.group).finish(error)
        while self._finishing:
            self._finishing.popleft()[0].finish(error)
        try:
            self.batch.clear()
        except Exception as fault:  # on a lost device even that
            logger.error("the batch could not be cleared", exc_info=fault)
            self._fatal = fault

    def _fail_largest(self, error: CaptionServeError) -> None:
        """Ends the group whose tree is the largest: it is what asks for memory."""
        self._end(self.batch.largest(), error)

    def _end(self, seat: Seat, error: CaptionServeError) -> None:
        """Ends a group with an error."""
        self._counters.groups_failed += 1
        self._leave(seat, error)

    def _leave(self, seat: Seat, error: CaptionServeError) -> None:
        try:
            self._close(seat)
        finally:  # on a lost device nothing can be freed, and the caller has to know all the same
            seat.group.finish(error)

    def _named(self, error: Exception) -> CaptionServeError:
        if isinstance(error, CaptionServeError):
            return error
        if isinstance(error, torch.OutOfMemoryError):
            logger.warning("out of memory: %s", error)
            self.device.recover()
            return OUT_OF_MEMORY
        logger.error("a step failed", exc_info=error)
        if isinstance(error, torch.AcceleratorError):
            self._fatal = error
        return BROKEN
