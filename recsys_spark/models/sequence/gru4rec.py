"""A gated recurrent unit over a history: its state after each event predicts the next item.

Paper: Balazs Hidasi, Alexandros Karatzoglou, Linas Baltrunas, Domonkos Tikk. Session-based
Recommendations with Recurrent Neural Networks. ICLR 2016, arXiv:1511.06939; items shared by input
and output, cross entropy and shared extra negatives with their log-Q as in B. Hidasi, A.
Karatzoglou. Recurrent Neural Networks with Top-k Gains for Session-based Recommendations. CIKM
2018, arXiv:1706.03847, and its authors' code.
Differs: gradients pass through all events of a window, which is right for the histories of users,
instead of one event of parallel sessions; every row starts from the zero state, in training as in
scoring. No TOP1 and no BPR-max. The job's optimiser takes the place of Adagrad with momentum.

For: the next event of sessions and histories, by a state that is carried from event to event
Needs: events in their true order, of hundreds of thousands at least
Cold: a new user with a history is ranked at once; new items are never found
Not for: small sets, and a first model: `markov`, and `item_knn` with `decay`, are level or above
    until it has trained long
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from recsys_spark.batches.base import Ragged
from recsys_spark.models.base import Sizes
from recsys_spark.models.sequence._next_item import Drop, NextItem
from recsys_spark.nn.tables import Table, table
from recsys_spark.nn.windows import Places


class Gru4rec(NextItem):
    class Config(NextItem.Config):
        num_layers: int = Field(1, ge=1)  # of units, one upon the other
        tied: bool = True  # the items as they are predicted are those that are read

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.gru = nn.GRU(config.dim, config.dim, config.num_layers, batch_first=True)
        if not config.tied:
            self.predicted = table(sizes.num_items, config.dim, config.init_std)

    @property
    def output(self) -> Table:
        return self.item if self.config.tied else self.predicted

    def states(self, items: Ragged, drop: Drop) -> Tensor:
        places = Places(items)
        x = places.spread(drop("dropout.items", self.item(items.values)))
        return drop("dropout.states", places.packed(self.gru(x)[0]))
