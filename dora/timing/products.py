"""The matrix products that a training step needs: their count, and a candidate of nothing else.

Counted for every row alike: forward and backward of the encoder's linears and of the attention,
each backward through the input. The last layer needs every token's key and value, and otherwise the
first token of each row alone (`dora.backbones.first_token`); a candidate that computes more is not
credited for it. DeBERTa's distances are those between the tokens of a batch, of up to 129 tokens
(`dora.backbones.disentangled`). Left out: the head, which sees one token of a row, and everything
that is no matrix product. A method whose first adapted layer asks for no gradient of its input, or
which computes anything twice, is not counted otherwise, so that shares of one table compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dora.adapters.budget import Budget
from dora.timing.setting import BUDGET, SIZES, START, Contender, Setting, in_precision, timed


@dataclass(frozen=True)
class Product:
    """A product (n, k) @ (k, m), done `times` in a step for `batch` pairs of matrices at once.

    `turned`: the operand that is stored transposed. It is an operand's layout in memory, which a
    product's speed may depend on.
    """

    n: int
    k: int
    m: int
    times: int
    batch: int = 1
    turned: Literal["", "left", "right"] = ""

    @property
    def flops(self) -> int:
        """Floating-point operations of a step: a multiplication and an addition count as two."""
        return 2 * self.n * self.k * self.m * self.batch * self.times


def linears(s: Setting) -> list[tuple[int, int, int, int]]:
    """Returns (tokens, d_in, d_out, how many) of the encoder's linears, by the tokens they see."""
    _, layers, hidden, inner, *_ = SIZES[s.size]
    tokens, rows = s.batch * s.length, s.batch
    return [
        (tokens, hidden, hidden, 3 * layers - 1),  # q, k and v, but for the last layer's q
        (rows, hidden, hidden, 1),
        # o, ffn1 and ffn2: of the last layer, the first token of each row alone.
        (tokens, hidden, hidden, layers - 1),
        (tokens, hidden, inner, layers - 1),
        (tokens, inner, hidden, layers - 1),
        (rows, hidden, hidden, 1),
        (rows, hidden, inner, 1),
        (rows, inner, hidden, 1),
    ]


def attentions(s: Setting) -> list[tuple[int, int]]:
    """Returns (queries of a row, how many layers) of the encoder's attention."""
    layers = SIZES[s.size][1]
    return [(s.length, layers - 1), (1, 1)]


def forward(s: Setting) -> list[Product]:
    """Returns the products of a forward pass over one batch."""
    architecture, layers, hidden, _, heads, _ = SIZES[s.size]
    pairs, width = s.batch * heads, hidden // heads
    # y = x Wᵀ, W stored as (d_out, d_in).
    found = [Product(n, i, o, number, turned="right") for n, i, o, number in linears(s)]
    for queries, number in attentions(s):
        # Q Kᵀ and P V.
        found.append(Product(queries, width, s.length, number, pairs, "right"))
        found.append(Product(queries, s.length, width, number, pairs))
    if architecture == "deberta-v2":
        # Keys and queries of the distances, and their products with Q and K, for all rows at once.
        # In the last layer a key has one distance: those products are no matrix product.
        tokens, distances = s.batch * s.length, 2 * s.length - 1
        found.append(Product(distances, hidden, hidden, 2 * layers, turned="right"))
        found.append(Product(tokens, width, distances, 2 * (layers - 1), heads, "right"))
        found.append(Product(1, width, s.length, 1, pairs, "right"))
    return found


def backward(s: Setting) -> list[Product]:
    """Returns the products of a backward pass to the embeddings, without any weight's gradient."""
    architecture, layers, hidden, _, heads, _ = SIZES[s.size]
    pairs, width = s.batch * heads, hidden // heads
    # dx = dy W.
    found = [Product(n, o, i, number) for n, i, o, number in linears(s)]
    for queries, number in attentions(s):
        # dP = dO Vᵀ, dQ = dS K, then dV = Pᵀ dO and dK = dSᵀ Q.
        found.append(Product(queries, width, s.length, number, pairs, "right"))
        found.append(Product(queries, s.length, width, number, pairs))
        found.append(Product(s.length, queries, width, 2 * number, pairs, "left"))
    if architecture == "deberta-v2":
        # To Q and K. The distances' own keys and queries come from frozen embeddings.
        found.append(Product(s.batch * s.length, 2 * s.length - 1, width, 2 * (layers - 1), heads))
        found.append(Product(1, s.length, width, 1, pairs))
    return found


def flops(s: Setting, name: str) -> int:
    """Returns the floating-point operations that a step of the candidate `name` needs.

    Products of the bare backbone, and beside them either the adapters' low-rank ones (forward, and
    twice as many backward) or, in full fine-tuning, the gradients of the linears' weights.
    """
    name = in_precision(s, name)[1]
    kind = name.split()[0]
    once = sum(p.flops for p in forward(s))
    if kind in ("forward", "evaluation"):
        return once  # evaluation may merge its adapters, which takes next to nothing
    needed = once + sum(p.flops for p in backward(s))
    if kind in ("floor", "our", "products"):
        return needed
    if kind == "full":
        return needed + sum(2 * n * i * o * number for n, i, o, number in linears(s))
    if kind == "bitfit":
        return needed  # a bias's gradient is a sum, no product
    return needed + 3 * _adapters(s, name)


def _adapters(s: Setting, name: str) -> int:
    """Returns the operations of a forward pass through an adapter method's own products."""
    rank = Budget.parse(BUDGET).rank if name.endswith(" after") else START
    assert rank is not None  # BUDGET is an average rank
    if name not in ("houlsby", "pfeiffer"):
        return sum(2 * n * rank * (i + o) * number for n, i, o, number in linears(s))
    # Bottlenecks of 4 and 8 times the rank, behind attention and feed-forward or the latter alone;
    # in the last layer they see the first token of each row.
    _, layers, hidden, *_ = SIZES[s.size]
    adapters, size = (2, 4 * rank) if name == "houlsby" else (1, 8 * rank)
    tokens = s.batch * s.length * (layers - 1) + s.batch
    return adapters * tokens * 2 * (2 * hidden * size)


def products(s: Setting) -> Contender:
    """Returns a candidate that does the bare backbone's products by torch.mm and torch.bmm alone.

    Operands of one shape are one pair of tensors: they come from the cache where they fit into it,
    so that the products are rather faster than the same ones in a step.
    """
    dtype = torch.bfloat16 if s.precision == "bf16" else torch.float32
    calls = [(p, *_operands(p, dtype, s.device)) for p in [*forward(s), *backward(s)]]

    @torch.inference_mode()
    def step() -> None:
        for p, left, right in calls:
            multiply = torch.mm if p.batch == 1 else torch.bmm
            for _ in range(p.times):
                multiply(left, right)

    return timed(s, step)


def _operands(p: Product, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Returns random matrices of the product's shapes, as they lie in memory in a step."""

    def drawn(rows: int, columns: int, turned: bool) -> Tensor:
        shape = [columns, rows] if turned else [rows, columns]
        if p.batch > 1:
            shape.insert(0, p.batch)
        made = torch.randn(shape, dtype=dtype, device=device)
        return made.mT if turned else made

    return drawn(p.n, p.k, p.turned == "left"), drawn(p.k, p.m, p.turned == "right")
