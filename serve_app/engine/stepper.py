"""One step of all running groups: one token further in the prompt, or in the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from serve_app.engine.batch import Batch, Launched, Seat, Shape
from serve_app.engine.counters import Counters
from serve_app.engine.decoder import Decoder
from serve_app.engine.device import Reading
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.kernels import Looks, Steps
from serve_app.engine.processors import Needs, power_of_two
from serve_app.engine.sampling import Draw, Streams, counted
from serve_app.engine.search import Noise, Search
from serve_app.engine.tree import LEAST_NODES


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Rows that are in their prompts; all [blocks, rows]."""

    inside: torch.Tensor
    """Whether the row's group is in its prompt still."""
    together: torch.Tensor
    """Whether it is a group with beams: its rows feed the prompt together, one token each per step."""
    positions: torch.Tensor
    """Place in the prompt of the token that the row takes."""
    fed: torch.Tensor
    """Whether that token is part of the prompt except its last one, which the first real step takes."""


class Stepper:
    """Takes steps; on a GPU as graphs, one for each padded shape."""

    def __init__(
        self,
        batch: Batch,
        decoder: Decoder,
        images: ImageCache,
        end: int,
        counters: Counters,
        captures: bool,
        counted_draws: bool = False,
    ) -> None:
        """`end`: id of the token that ends a text. `captures`: steps are padded, and captured as the device does it.
        `counted_draws`: random numbers come from a counter on a CPU, too, instead of transformers' stream."""
        self._batch, self._decoder, self._cache, self._counters = batch, decoder, images, counters
        self._search = Search(batch, end)
        self._captures = captures
        self._steps = decoder.kernels.steps(batch, end)
        counted_draws = counted_draws or batch.device.place.type == "cuda"
        self._streams = None if counted_draws else Streams(batch.state.vocabulary)
        self._report = torch.zeros(batch.blocks, batch.rows + 1, dtype=torch.int64, device=batch.device.place)
        self._numbers = torch.arange(1, batch.tree.max_nodes + 1, device=batch.device.place)
        self._own = torch.eye(batch.rows, dtype=torch.bool, device=batch.device.place)
        self._before = self._own.new_ones(batch.rows, batch.rows).tril()
        self._graphs: dict[Shape, Callable[[], None]] = {}
        self._generation = batch.tree.generation
        self._draws: Sequence[Draw] = ()
        self.began = False
        """Whether the last step had begun to change what groups have found; until then it can be taken again."""

    @property
    def captured(self) -> int:
        return len(self._graphs)

    def launch(self, shape: Shape) -> tuple[Launched, Reading]:
        """Launches a step of all groups of the batch, of its `shape`. When it raises, `began` says how they are."""
        self.began = False
        self._draws = self._batch.draws()
        if self._captures:
            self._replay(self._padded(shape))
        else:
            self._run(shape, self._batch.pictures)
        reading = self._batch.device.read(self._report[: shape.blocks])
        return self._batch.launched(), reading

    def feed(self, seat: Seat) -> None:
        """Feeds a new group's whole prompt except its last token at once, if steps have no fixed shape.

        A step does the same, a few tokens at a time. Raises what `Tree.ensure` raises, and the decoder; the group's
        state has not changed then.
        """
        group, (block, _) = seat.group, seat.rows[0]
        count = len(group.prompt) - 1
        in_steps = self._captures or self._steps is not None or any(at != block for at, _ in seat.rows)
        if in_steps or seat.prompt_steps < 2:
            return
        batch, tree, device = self._batch, self._batch.tree, self._batch.device
        padded = -(-count // batch.rows) * batch.rows
        tree.ensure(batch.used[block].top + padded)
        with torch.inference_mode(), self._counters.timed("forward"):
            nodes = (~tree.seen[block].any(0)).nonzero()[:padded, 0]
            extent = int(nodes[-1]) + 1
            ids = torch.tensor([*group.prompt[:-1], *[0] * (padded - count)], device=device.place)
            positions = torch.arange(padded, device=device.place).clamp_max_(count)
            own = torch.ones(1, padded, padded, dtype=torch.bool, device=device.place).tril()
            seen = torch.zeros(1, padded, extent, dtype=torch.bool, device=device.place)
            seen[:, :, nodes] = own
            slot = group.image.slot if group.image is not None else 0
            slots = torch.full((1, padded), slot, device=device.place)
            known = [slot] * padded
            looks = Looks(tree.part(block), self._cache, nodes[None], own, extent, seen, slots, 1, known)
            self._decoder.forward(ids, positions, looks)
            for _, row in seat.rows:
                tree.seen[block, row, nodes[:count]] = True
            batch.fed(seat, extent)

    def warm_up(self, extents: Sequence[int], blocks: Sequence[int]) -> None:
        """Captures the graphs of these shapes, for what the presets need. For an empty batch."""
        if not self._captures:
            return
        for extent in sorted(extents, reverse=True):  # the largest first: the others then fit into its memory
            for count in sorted(blocks, reverse=True):
                self._replay(self._padded(Shape(count, extent, 1, True, Needs())))
        for count in sorted(blocks, reverse=True):  # groups without beams, of several images in a block
            self._replay(self._padded(Shape(count, min(extents, default=LEAST_NODES), 2, True, Needs())))

    def _padded(self, shape: Shape) -> Shape:
        batch = self._batch
        return replace(
            shape,
            blocks=min(power_of_two(shape.blocks), batch.blocks),
            extent=min(power_of_two(shape.extent, LEAST_NODES), batch.tree.nodes),
            pictures=1 if shape.pictures == 1 else batch.rows,
            prompts=True,
            needs=shape.needs.padded(batch.state.vocabulary, batch.state.positions),
        )

    def _replay(self, shape: Shape) -> None:
        """Takes a step by its graph, which is captured when the shape comes for the first time."""
        if self._generation != self._batch.tree.generation:
            self._graphs.clear()
            self._batch.device.drop()
            self._generation = self._batch.tree.generation
        if (replay := self._graphs.get(shape)) is not None:
            with self._counters.timed("forward"):
                replay()
            return
        self._graphs[shape] = self._batch.device.capture(lambda: self._run(shape, None))

    @torch.inference_mode()
    def _run_fused(self, shape: Shape, steps: Steps) -> None:
        """The step in few launches."""
        batch = self._batch
        found = steps.prepare(shape)
        slots = batch.state.view(shape.blocks)["picture"]
        looks = Looks(batch.tree, self._cache, found.nodes, found.own, shape.extent, None, slots, shape.pictures, None)
        states = self._decoder.forward(found.tokens.flatten(), found.positions.flatten(), looks)
        self.began = True
        parents = steps.advance(shape, self._decoder.logits(states), found)
        steps.commit(shape, found, parents, self._report)

    @torch.inference_mode()
    def _run(self, shape: Shape, pictures: list[int] | None) -> None:
        """The step itself. `pictures` are the rows' image slots if the host may know them, as on a CPU."""
        if self._steps is not None and self._steps.covers(shape):
            self._run_fused(shape, self._steps)
            return
        batch, tree, state = self._batch, self._batch.tree, self._batch.state.view(shape.blocks)
        prompts = self._prompts(shape) if shape.prompts else None
        positions, goes_on = state["length"] - 1, (state["active"] > 0) & (state["ended"] == 0)
        if prompts is not None:
            positions, goes_on = torch.where(prompts.inside, prompts.positions, positions), goes_on & ~prompts.inside
        positions = positions.clamp_min_(0)
        tokens = batch.state.sequences[: shape.blocks].gather(2, positions[..., None])[..., 0]
        nodes = tree.free(shape.blocks, shape.extent)
        own = self._own_of(shape, prompts)
        seen = tree.seen[: shape.blocks, :, : shape.extent].scatter(2, nodes[:, None].expand_as(own), own)
        with self._counters.timed("forward"):
            looks = Looks(tree, self._cache, nodes, own, shape.extent, seen, state["picture"], shape.pictures, pictures)
            states = self._decoder.forward(tokens.flatten(), positions.flatten(), looks)
            logits = self._decoder.logits(states)
        self.began = True
        with self._counters.timed("search"):
            parents = self._search(shape, logits, goes_on, self._noise(shape))
        self._commit(shape, nodes, seen, parents, goes_on, prompts)

    def _prompts(self, shape: Shape) -> _Prompts:
        state = self._batch.state.view(shape.blocks)
        number = self._numbers[: self._batch.rows] - 1
        fed, last = state["fed"], state["prompt"] - 1
        inside = fed < last
        together = inside & (state["beams"] > 0)
        places = fed + number * together
        return _Prompts(inside, together, torch.minimum(places, last - 1), inside & (places < last))

    def _own_of(self, shape: Shape, prompts: _Prompts | None) -> torch.Tensor:
        """Which new nodes of its block a row sees, [blocks, rows, rows]: its own, and in a prompt that is fed together
        those of the rows before it."""
        own = self._own.expand(shape.blocks, -1, -1)
        return own if prompts is None else torch.where(prompts.together[..., None], self._before, own)

    def _commit(
        self,
        shape: Shape,
        nodes: torch.Tensor,
        seen: torch.Tensor,
        parents: torch.Tensor,
        goes_on: torch.Tensor,
        prompts: _Prompts | None,
    ) -> None:
        """Rows see what their parents saw, those in a prompt what was fed, and those of no group nothing."""
        batch, state = self._batch, self._batch.state.view(shape.blocks)
        kept = seen.gather(1, parents[..., None].expand_as(seen)) if shape.needs.beams else seen
        if prompts is not None:
            # The last row saw all nodes of the prompt's part; what was fed beyond its end goes.
            whole = seen[:, -1:].scatter(2, nodes[:, None], prompts.fed[:, None])
            kept = torch.where(prompts.together[..., None], whole, kept)
            count = torch.where(prompts.together, batch.rows, prompts.inside.long())
            fed = torch.minimum(state["fed"] + count, state["prompt"] - 1)
            torch.where(prompts.inside, fed, state["fed"], out=state["fed"])
            goes_on = goes_on | prompts.inside
        sees, report = batch.tree.seen[: shape.blocks, :, : shape.extent], self._report[: shape.blocks]
        torch.logical_and(kept, goes_on[..., None], out=sees)
        torch.logical_or(state["ended"], state["active"] == 0, out=report[:, :-1])
        torch.amax(sees.any(1) * self._numbers[: shape.extent], 1, out=report[:, -1])

    def _noise(self, shape: Shape) -> Noise:
        if self._streams is not None:
            streams = self._streams
            return lambda tokens: streams.exponentials(self._draws, tokens)
        state = self._batch.state.view(shape.blocks)
        return lambda tokens: counted(state["stream"], state["length"], tokens)
