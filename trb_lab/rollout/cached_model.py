"""One model extending a batch of rows in place: prefill, passes over G tokens a row, roll-back by position.

On a GPU the pass of each (rows, tokens) shape is captured in a CUDA graph, so that launch overhead does not count.
Shape suffixes: A rows in use, G tokens of a pass, H hidden width, W logit width, S slots.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from trb_lab.errors import UsageError
from trb_lab.models.load import LanguageModel

from .fused_ops import fused_operations
from .kv_cache import RaggedCache, ragged_attention_of
from .lean_layer import lean_layers

ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Batch sizes that get a graph of their own; beyond the last, its multiples."""
GRAPH_BYTES = 4_000_000_000
"""Results of captured passes that are kept before those of other block lengths go."""


class Pass(NamedTuple):
    """What a pass over G tokens a row gives. Overwritten by the next pass on a GPU."""

    hidden_AGH: Tensor
    logits_AGW: Tensor


class CachedModel:
    """A model with its cache. `pending_S` is each row's next token to feed, `offset_S` its prompt length less one.

    The cache of a row holds its prompt without the last token, and its response without the last token: the pending
    one. So a row's cached length is offset + response position.
    """

    def __init__(self, model: LanguageModel, slots: int, capacity: int, prefill_tokens: int) -> None:
        device = model.device
        self.model = model
        self.cache = RaggedCache(slots, capacity, device)
        self.prefill_tokens = prefill_tokens
        self.pending_S = torch.zeros(slots, dtype=torch.int64, device=device)
        self.offset_S = torch.zeros(slots, dtype=torch.int32, device=device)
        self.fed_tokens = 0
        """Positions that have gone through the model so far, prompts included, unused rows of captured passes not."""
        self.graphs: dict[tuple[int, int], _Graph] | None = {} if device.type == "cuda" else None
        # Captured passes share working memory: they run one after another, and their results are held apart.
        self.graph_pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    @property
    def num_bytes(self) -> int:
        """Of the cache and of the captured passes' results."""
        return self.cache.num_bytes + self._result_bytes()

    def _result_bytes(self) -> int:
        return sum(part.nbytes for graph in (self.graphs or {}).values() for part in graph.result)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Passes happen within it: the network attends through the cache, with fused operations."""
        with ExitStack() as stack:
            stack.enter_context(ragged_attention_of(self.model.network))
            stack.enter_context(fused_operations(self.model.network))
            stack.enter_context(lean_layers(self.model.network))
            yield

    def admit(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Put prompts into slots. Rows with the same prompt share one prefill."""
        unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        place = {prompt: i for i, prompt in enumerate(unique)}
        source = [place[tuple(prompt)] for prompt in prompts]
        device = self.pending_S.device
        index = torch.tensor(list(slots), device=device)
        self.pending_S[index] = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        self.offset_S[index] = torch.tensor([len(p) - 1 for p in prompts], dtype=torch.int32, device=device)
        order = sorted((i for i in range(len(unique)) if len(unique[i]) > 1), key=lambda i: len(unique[i]))
        while order:
            width = len(unique[order[-1]]) - 1
            part = order[-max(1, self.prefill_tokens // width) :]
            del order[-len(part) :]
            local = {i: n for n, i in enumerate(part)}
            mine = [(slot, local[i]) for slot, i in zip(slots, source, strict=True) if i in local]
            self._prefill([unique[i][:-1] for i in part], width, mine)

    def _prefill(self, prompts: list[tuple[int, ...]], width: int, mine: list[tuple[int, int]]) -> None:
        self.fed_tokens += sum(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        device = self.pending_S.device
        slots, source = torch.tensor(mine, device=device).unbind(-1)
        positions = torch.arange(width, device=device).expand(len(prompts), width)
        with self.cache.prefilling(slots, source):
            self._hidden(ids.to(device), positions)

    def _hidden(self, ids_AG: Tensor, positions_AG: Tensor) -> Tensor:
        return self.model.hidden(
            input_ids=ids_AG,
            attention_mask=None,
            position_ids=positions_AG,
            past_key_values=self.cache,
            use_cache=True,
            ragged=self.cache,
        )

    def place(self, position_A: Tensor) -> None:
        """Set the rows' cached lengths from their response positions; the slots behind them become empty."""
        rows = position_A.shape[0]
        torch.add(self.offset_S[:rows], position_A, out=self.cache.lengths_S[:rows])
        self.cache.lengths_S[rows:] = 0

    def extend(self, ids_AG: Tensor) -> Pass:
        """Feed G tokens a row and move the lengths on by G."""
        rows, tokens = ids_AG.shape
        result = self._eager(ids_AG) if self.graphs is None else self._replay(ids_AG)
        self.cache.lengths_S[:rows] += tokens
        self.fed_tokens += rows * tokens
        return result

    def _eager(self, ids_AG: Tensor) -> Pass:
        rows, tokens = ids_AG.shape
        positions_AG = self.cache.lengths_S[:rows, None].long() + torch.arange(tokens, device=ids_AG.device)
        with self.cache.extending(rows, tokens):
            hidden_AGH = self._hidden(ids_AG, positions_AG)
        return Pass(hidden_AGH, self.model.logits(hidden_AGH))

    def _replay(self, ids_AG: Tensor) -> Pass:
        assert self.graphs is not None
        rows, tokens = ids_AG.shape
        bucket = min(row_bucket(rows), self.cache.slots)
        graph = self.graphs.get((bucket, tokens))
        if graph is None:
            if self._result_bytes() > GRAPH_BYTES:  # of block lengths that may never come again
                self.graphs = {shape: kept for shape, kept in self.graphs.items() if shape[1] in (1, tokens)}
            try:
                graph = self.graphs[bucket, tokens] = _Graph(self, bucket, tokens)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # a model that looks at values on the host cannot be captured
                warnings.warn(
                    f"'{self.model.spec.name}' cannot be captured in a CUDA graph and decodes without: {error}",
                    stacklevel=2,
                )
                self.graphs = None
                return self._eager(ids_AG)
        graph.ids_AG[:rows] = ids_AG
        graph.graph.replay()
        return Pass(*(part[:rows] for part in graph.result))

    def move(self, source: int, target: int) -> None:
        """A row goes to another slot."""
        self.cache.move(source, target)
        self.pending_S[target] = self.pending_S[source]
        self.offset_S[target] = self.offset_S[source]


def row_bucket(rows: int) -> int:
    """The smallest captured batch size that holds `rows`."""
    last = ROW_BUCKETS[-1]
    return next((size for size in ROW_BUCKETS if size >= rows), -(-rows // last) * last)


class _Graph:
    """A captured pass. Rows beyond those in use compute on empty slots."""

    def __init__(self, owner: CachedModel, rows: int, tokens: int) -> None:
        self.ids_AG = torch.zeros(rows, tokens, dtype=torch.int64, device=owner.pending_S.device)
        # Warm-up passes on a side stream: compilation and lazy allocations must not be captured. They write behind
        # the rows' lengths alone.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                owner._eager(self.ids_AG)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=owner.graph_pool):
            self.result = owner._eager(self.ids_AG)


def check_cached_passes(model: LanguageModel) -> None:
    """Passes through the cache must give what a plain pass gives, or the engine would sample from another model.

    Raises:
        UsageError: the architecture attends in a way that the cache does not know.
    """
    # Tokens from the middle of the vocabulary: the first ones are special, some never trained, and a bfloat16 pass over
    # such a text differs from itself in another shape as much as from any other model's.
    size = model.network.config.get_text_config().vocab_size
    ids = [(size // 3 + max(1, size // 40) * i) % size for i in range(9)]
    cached = CachedModel(model, slots=2, capacity=16, prefill_tokens=16)
    cached.graphs = None
    tokens_AG = torch.tensor([ids[6:9], ids[3:6]], device=model.device)
    with torch.no_grad(), cached.ready():
        try:
            cached.admit([0, 1], [ids[:7], ids[:4]])
            cached.place(torch.zeros(2, dtype=torch.int32, device=model.device))
            found_AGH = cached.extend(tokens_AG).hidden_AGH.float()
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise UsageError(_unsupported(model, str(error))) from error
    _refuse_hidden_windows(model, cached.cache)
    with torch.no_grad():
        for row, end in ((0, 9), (1, 6)):
            plain_GH = model.hidden(input_ids=torch.tensor([ids[:end]], device=model.device))[0, -3:].float()
            gap = float((found_AGH[row] - plain_GH).norm() / plain_GH.norm())
            if not gap < (1e-3 if model.dtype == torch.float32 else 0.1):
                raise UsageError(_unsupported(model, f"hidden states differ by {gap:.2g} of their size"))


def _refuse_hidden_windows(model: LanguageModel, cache: RaggedCache) -> None:
    """A window that is in the mask alone would be lost, and the prompts of the check are too short to see it."""
    config = model.network.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    masked = window is not None and getattr(config, "use_sliding_window", True) and not cache.saw_window
    if (masked and window < config.max_position_embeddings) or hasattr(config, "keep_window_size"):
        raise UsageError(_unsupported(model, "its attention window is in the mask alone"))


def _unsupported(model: LanguageModel, reason: str) -> str:
    return (
        f"model '{model.spec.name}' ({type(model.network).__name__}) cannot decode through the engine's cache: "
        f"{reason}. Models that take their attention function from transformers' registry can (Qwen, Llama, Mistral "
        "and others)."
    )
