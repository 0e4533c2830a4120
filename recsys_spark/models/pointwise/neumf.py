"""Neural matrix factorization: a generalised dot product (GMF) beside a multilayer perceptron (MLP), joined at the output.

Paper: Xiangnan He, Lizi Liao, Hanwang Zhang, Liqiang Nie, Xia Hu, Tat-Seng Chua. Neural Collaborative Filtering. WWW 2017,
arXiv:1708.05031 (equations 7 to 12).
Differs: trained from random weights, without pre-trained GMF and MLP; dense layers start from Glorot's uniform distribution (the paper says
N(0, 0.01) for all, its code does not); both branches' embeddings of a user lie side by side in one table, which changes no number; an
optional L2 on the embedding rows in the batch. A user or item that training never met keeps its start, close to zero, and index 0
is zero: such a user gets what the MLP says of the items alone.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.core.config import Settings
from recsys_spark.models.base import Context, Model, Query, Rows, Sizes, Term
from recsys_spark.nn.tables import table

_BLOCK = 1 << 21  # numbers of a hidden layer held at once while the catalogue is scored


class Neumf(Model):
    layout = "pointwise"
    task = "ranking"

    class Config(Settings):
        dim: int = Field(8, ge=1)  # k, the predictive factors of each branch
        num_layers: int = Field(2, ge=1)  # of the tower, each half as wide as the one before, the last k: 2 is [4k, 2k, k]
        num_negatives: int = Field(4, ge=1)  # per positive, fresh in each epoch
        l2: float = Field(0.0, ge=0)  # times the squared norms of the embedding rows in the batch, each time they occur
        init_std: float = Field(0.01, gt=0)  # of the embeddings

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        k = config.dim
        self.widths = [k, k * 2 ** (config.num_layers - 1)]  # of a user's GMF and MLP embedding
        self.user = table(sizes.num_users, sum(self.widths), config.init_std)
        self.item = table(sizes.num_items, sum(self.widths), config.init_std)
        self.tower = nn.ModuleList(nn.Linear(k * 2**n, k * 2 ** (n - 1)) for n in range(config.num_layers, 0, -1))
        self.output = nn.Linear(2 * k, 1)
        for layer in [*self.tower, self.output]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: Rows, ctx: Context) -> dict[str, Tensor]:
        user, item = self.user(batch.user), self.item(batch.item)  # (B, k + 2k)
        (p_gmf, p_mlp), (q_gmf, q_mlp) = user.split(self.widths, 1), item.split(self.widths, 1)
        z = torch.cat([p_mlp, q_mlp], 1)  # (B, 4k)
        for layer in self.tower:
            z = F.relu(layer(z))  # equation 10; (B, 2k), (B, k)
        logit = self.output(torch.cat([p_gmf * q_gmf, z], 1)).squeeze(1)  # equation 12 before its sigmoid, (B,)
        return {"logit": logit, "norms": (user.square() + item.square()).sum(1)} if self.config.l2 else {"logit": logit}

    def loss(self, batch: Rows, output: dict[str, Tensor], ctx: Context) -> dict[str, Term]:
        weight = batch.weight.sum()
        entropy = F.binary_cross_entropy_with_logits(output["logit"], batch.label, batch.weight, reduction="sum")  # equation 7
        terms = {"cross_entropy": Term(entropy, weight)}
        if self.config.l2:
            terms["l2"] = Term((batch.weight * output["norms"]).sum(), weight, self.config.l2)
        return terms

    def score(self, query: Query, items: Tensor | None = None) -> Tensor:
        """The logit of every (user, item). The first layer is linear in user plus item: each part is computed once, and added by pairs."""
        items = torch.arange(self.sizes.num_items + 1, device=self.user.weight.device) if items is None else items
        p_gmf, p_mlp = self.user(query.user).split(self.widths, -1)  # (B, k), (B, 2k)
        q_gmf, q_mlp = self.item(items).split(self.widths, -1)  # ([B,] C, k), ([B,] C, 2k)
        h_gmf, h_mlp = self.output.weight.squeeze(0).chunk(2)
        first, *rest = self.tower
        w_user, w_item = first.get_parameter("weight").chunk(2, 1)
        p_mlp, q_mlp = p_mlp @ w_user.T + first.bias, q_mlp @ w_item.T  # (B, 2k), ([B,] C, 2k)
        p_gmf = p_gmf * h_gmf
        scores = p_gmf @ q_gmf.T if items.dim() == 1 else torch.einsum("bk,bck->bc", p_gmf, q_gmf)
        step = max(1, _BLOCK // max(1, p_mlp.numel()))
        for start in range(0, items.shape[-1], step):
            z = F.relu(p_mlp[:, None] + q_mlp[..., start : start + step, :])  # (B, c, 2k)
            for layer in rest:
                z = F.relu(layer(z))
            scores[:, start : start + step] += z @ h_mlp
        return scores + self.output.bias

    def predict(self, batch: Rows) -> dict[str, Tensor]:
        return {"ranking": self(batch, Context())["logit"].sigmoid()}
