"""Self-attention over a history: each event attends to those before it, and predicts the next item.

Paper: Wang-Cheng Kang, Julian McAuley. Self-Attentive Sequential Recommendation. ICDM 2018,
arXiv:1808.09781 (section III: one head, learnt positions counted from the end, items shared by
input and output, `loss: bce` with one negative). `loss: softmax` is what Anton Klenitskiy, Alexey
Vasilev. Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec? RecSys 2023,
arXiv:2309.07602 train it with; `loss: gbce` that of gSASRec (nn/objectives/binary.py).
Differs: a long history is several windows and not its last one alone; windows are packed, and no
event attends to padding; no dropout of attention weights; keys have no bias, which no softmax over
them could tell.

For: the next event of long histories, where more than the last few events matters
Needs: events in their true order, of hundreds of thousands at least
Cold: a new user with a history is ranked at once; new items are never found
Not for: small sets, and a first model: `markov`, and `item_knn` with `decay`, are level or above
    until it has trained long
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.batches.base import Ragged
from recsys_spark.models.base import Sizes
from recsys_spark.models.sequence._next_item import Drop, NextItem
from recsys_spark.nn.tables import table
from recsys_spark.nn.tower import glorot
from recsys_spark.nn.windows import Places


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); the network between is D wide."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attended = nn.Linear(dim, 3 * dim, bias=False)  # queries, keys, values
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        glorot([self.inner, self.outer])
        for part in self.attended.weight.chunk(3):
            nn.init.xavier_uniform_(part)

    def forward(self, x: Tensor, places: Places, drop: Drop, name: str) -> Tensor:
        """(E, D) -> (E, D)"""
        spread = places.spread(self.attended(self.attention_norm(x)))  # (B, L, 3 D)
        query, key, value = spread.unsqueeze(1).chunk(3, -1)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + drop(f"{name}.attention", places.packed(attended))
        inner = drop(f"{name}.inner", F.relu(self.inner(self.norm(x))))
        return x + drop(f"{name}.outer", self.outer(inner))


class Sasrec(NextItem):
    class Config(NextItem.Config):
        num_blocks: int = Field(2, ge=1)  # of attention and feed-forward, one after the other

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.place = table(config.length, config.dim, config.init_std)  # row 1: the last event
        self.blocks = nn.ModuleList(Block(config.dim) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.dim)

    def states(self, items: Ragged, drop: Drop) -> Tensor:
        places = Places(items)
        x = self.item(items.values) * self.config.dim**0.5
        x = drop("dropout", x + self.place(places.from_end + 1))
        for number, block in enumerate(self.blocks):
            x = block(x, places, drop, f"dropout.{number}")
        return self.norm(x)
